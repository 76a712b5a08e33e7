"""What the artifact ``_results`` holds, by which a client sees that an experiment is over. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable

RESULTS = "_results"
RESULTS_FILE = "_results.json"
_NOT_LISTED = frozenset({"_metadata", RESULTS})


def results_document(key: str, host: str, error: str, saved: Iterable[str]) -> str:
    """The text of its one file; ``error`` is "" after a success, ``saved`` are tags."""
    labels = sorted(set(saved) - _NOT_LISTED)
    document = {
        "exit_msg": error or "ok",
        "experiment_id": key,
        "host": host,
        "artifacts": {label: {"name": label} for label in labels},
    }
    return json.dumps(document, indent=2) + "\n"
