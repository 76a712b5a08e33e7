"""The documents that an attempt leaves of itself, and the line with which its output ends. Pure.

``scrape-host-<accession>.json`` has what was found out and how it ran, ``request-host-….json`` the
request as it came, credentials masked. docs/metadata.md has their members. The job side writes
them; of an attempt that never became a job the gateway does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from hpcrunner.request.plan import PlannedArtifact, PlannedExperiment
from hpcrunner.request.reasons import Reason
from hpcrunner.request.redact import redact_document, redact_text

METADATA = "_metadata"
SCRAPE, REQUEST = "scrape-host-", "request-host-"
PROTECTED = "studioml"  # the runner's part
COMPLETED = "completed"
PREFIX = "hpcrunner: "
_LABEL = 200  # characters of a label
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
Document = dict[str, Any]


def as_text(document: object) -> str:
    """A document as one line of JSON, ASCII only, members sorted."""
    return _ENCODER.encode(document)


def timestamp(nanoseconds: int) -> str:
    """``2026-03-01T12:00:00.123456789+00:00``, from nanoseconds since the epoch."""
    seconds, fraction = divmod(nanoseconds, 10**9)
    day = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{day}.{fraction:09d}+00:00"


def takes_documents(experiment: PlannedExperiment) -> PlannedArtifact | None:
    """The artifact that takes them; None where the request has none to be saved."""
    found = (a for a in experiment.artifacts if a.tag == METADATA and a.mutable)
    return next((a for a in found if a.location.scheme != "http"), None)


def scrape_name(accession: str) -> str:
    """The name of the first document."""
    return f"{SCRAPE}{accession}.json"


def request_name(accession: str) -> str:
    """The name of the second."""
    return f"{REQUEST}{accession}.json"


def facts(
    experiment: PlannedExperiment, accession: str, host: str, *, restarts: int = 0
) -> Document:
    """What the runner's part says of an attempt from its beginning."""
    document = _read(experiment.document)
    labels = ("project", "project_version", "project_experiment", "author")
    document.setdefault("author", document.get("owner"))
    about = {label: _word(document.get(label)) for label in labels}
    return {
        "accession": accession,
        "host": host,
        "attempt": experiment.attempt,
        "restarts": restarts,
        "experiment": {"key": experiment.key, **{n: word for n, word in about.items() if word}},
        "artifacts": {a.tag: a.address for a in experiment.artifacts},
    }


def ended(reason: Reason, text: str) -> Document:
    """What it says of an ending; ``text`` is one line."""
    if reason is Reason.COMPLETED:
        return {"status": COMPLETED}
    return {"status": reason.value.lower(), "error": redact_text(text)}


def request_document(experiment: PlannedExperiment) -> bytes:
    """The second document."""
    config = {"env": dict(experiment.environment), "pip": list(experiment.pip)}
    request = {"experiment": _read(experiment.document), "config": config}
    return as_text(redact_document(request)).encode() + b"\n"


def never_started(
    experiment: PlannedExperiment,
    accession: str,
    host: str,
    reason: Reason,
    lines: Sequence[str],
    now: int,
) -> dict[str, bytes]:
    """Both documents, by name, of an attempt that ended before there was a job.

    ``lines`` are those of its output, ``now`` is nanoseconds since the epoch.
    """
    at = timestamp(now)
    ours = {
        **facts(experiment, accession, host),
        **ended(reason, lines[-1].removeprefix(PREFIX)),
        "load_time": at,
        "log": [{"ts": at, "msg": redact_text(line)} for line in ("Init", *lines)],
    }
    return {
        scrape_name(accession): as_text({PROTECTED: ours}).encode() + b"\n",
        request_name(accession): request_document(experiment),
    }


def _word(value: object) -> str:
    """A label that clients may send as they like."""
    return redact_text(str(value))[:_LABEL] if isinstance(value, (str, int, float)) else ""


def _read(document: str) -> Document:
    try:
        read = json.loads(document)
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}
