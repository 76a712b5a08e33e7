"""The record: the job side's own word on how one attempt ended. Written once, by rename."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.reasons import Reason

RECORD_VERSION = 1


class RecordError(HpcrunnerError):
    """A record file that is damaged, of another version, or of another attempt."""

    exit_code = 65  # EX_DATAERR


@dataclass(frozen=True, slots=True)
class SavedArtifact:
    """One artifact as it was last uploaded: its address, size in bytes and SHA-256 (hex)."""

    tag: str
    address: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Record:
    """How an attempt ended.

    ``text`` is one line for people. ``exit_code`` is the payload's (None: it never ran or was
    ended by ``signal``). Times are epoch seconds by the node's clock. ``last_lines`` are the
    payload's last output lines, oldest first. ``fetched_bytes`` came from stores (not from a
    cache) and ``saved_bytes`` went there, over all saves; ``cache_hits`` and ``cache_misses``
    count artifacts.
    """

    batch: str
    index: int
    experiment: str
    attempt: int
    reason: Reason
    text: str
    exit_code: int | None = None
    signal: int | None = None
    host: str = ""
    job_id: str = ""
    started_at: float = 0.0
    payload_started_at: float | None = None
    ended_at: float = 0.0
    last_lines: tuple[str, ...] = ()
    saved: tuple[SavedArtifact, ...] = ()
    fetched_bytes: int = 0
    saved_bytes: int = 0
    cache_hits: int = 0
    cache_misses: int = 0

    @property
    def succeeded(self) -> bool:
        """True where the payload ended with 0 and all its results were saved."""
        return self.reason is Reason.COMPLETED

    def to_json(self) -> str:
        """The record as JSON text, versioned."""
        return json.dumps({"version": RECORD_VERSION, **asdict(self)}, indent=1)


def record_from_json(text: str, *, where: str = "record") -> Record:
    """Read what ``Record.to_json`` wrote. Raises RecordError on damage or another version."""
    try:
        raw: dict[str, Any] = json.loads(text)
        version = raw.pop("version")
        if version != RECORD_VERSION:
            raise ValueError(f"version {version}, expected {RECORD_VERSION}")
        return Record(
            **{
                **raw,
                "reason": Reason(raw["reason"]),
                "last_lines": tuple(raw["last_lines"]),
                "saved": tuple(SavedArtifact(**s) for s in raw["saved"]),
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecordError(
            f"not a record ({type(error).__name__}: {error})",
            where=where,
            remedy="the attempt is judged by the scheduler's word alone",
        ) from error
