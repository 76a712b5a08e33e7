"""``_results``: the artifact by which a client sees that an experiment is over.

It holds one file, written and uploaded after everything else, and only where no other attempt
follows; see docs/payloads.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

RESULTS = "_results"
RESULTS_FILE = "_results.json"
_NOT_LISTED = frozenset({"_metadata", RESULTS})


def write_results(folder: Path, key: str, host: str, error: str, saved: Iterable[str]) -> None:
    """Write the file; ``error`` is empty after a success, ``saved`` the tags that were uploaded.

    Raises OSError.
    """
    labels = sorted(set(saved) - _NOT_LISTED)
    document = {
        "exit_msg": error or "ok",
        "experiment_id": key,
        "host": host,
        "artifacts": {label: {"name": label} for label in labels},
    }
    folder.mkdir(mode=0o700, exist_ok=True)
    # What the payload may have left there is not for the client, and may be a link.
    (folder / RESULTS_FILE).unlink(missing_ok=True)
    (folder / RESULTS_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
