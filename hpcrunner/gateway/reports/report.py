"""A report as StudioML's listeners parse it: ``dev.studio_go_runner.reports.Report`` in JSON.

The mapping is protobuf's (https://protobuf.dev/programming-guides/json/): names in lowerCamel,
wrapped strings as plain strings, enum values by name, timestamps as RFC 3339 in UTC, and what
has its zero value left out, so that ``Prestart`` and ``Default`` do not show. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum

_LATEST = 253402300799.0  # the last second of year 9999, where protobuf's timestamps end
_LEAST_CODE, _MOST_CODE = -(2**31), 2**31 - 1


class Severity(Enum):
    """LogSeverity, by its values."""

    DEFAULT = "Default"
    TRACE = "Trace"
    DEBUG = "Debug"
    INFO = "Info"
    WARNING = "Warning"
    ERROR = "Error"
    FATAL = "Fatal"


class TaskState(Enum):
    """TaskState, by its values."""

    PRESTART = "Prestart"
    STARTED = "Started"
    STOPPING = "Stopping"
    FAILED = "Failed"
    SUCCESS = "Success"


_ZERO = (Severity.DEFAULT, TaskState.PRESTART)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of a log."""

    severity: Severity
    message: str
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where an attempt stands. ``json`` is a document as text; ``error`` its words and code."""

    state: TaskState
    json: str | None = None
    error: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """One report. ``time`` is epoch seconds; None leaves an id out."""

    time: float
    executor_id: str
    payload: LogEntry | Progress
    experiment_id: str | None = None
    unique_id: str | None = None

    def to_json(self) -> str:
        """The report as JSON text."""
        time = timestamp(self.time)
        document: dict[str, object] = {"time": time}
        if self.experiment_id is not None:
            document["experimentId"] = _text(self.experiment_id)
        if self.unique_id is not None:
            document["uniqueId"] = _text(self.unique_id)
        document["executorId"] = _text(self.executor_id)
        if isinstance(self.payload, LogEntry):
            document["logging"] = {"time": time, **_logging(self.payload)}
        else:
            document["progress"] = {"time": time, **_progress(self.payload)}
        return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def timestamp(seconds: float) -> str:
    """Epoch seconds as protobuf writes a Timestamp, in milliseconds: ``2026-01-31T09:30:00.250Z``.

    A time that none can be (not a number, before 1970, after 9999) is the beginning of 1970.
    """
    if not 0.0 <= seconds <= _LATEST:
        seconds = 0.0
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    at = datetime.fromtimestamp(whole, timezone.utc)
    fraction = f".{milliseconds:03d}" if milliseconds else ""
    return f"{at:%Y-%m-%dT%H:%M:%S}{fraction}Z"


def _logging(entry: LogEntry) -> dict[str, object]:
    document = _enum("severity", entry.severity)
    document["message"] = _text(entry.message)
    if entry.fields:
        document["fields"] = {_text(k): _text(v) for k, v in entry.fields.items()}
    return document


def _progress(progress: Progress) -> dict[str, object]:
    document: dict[str, object] = {}
    if progress.json is not None:
        document["json"] = _text(progress.json)
    document |= _enum("state", progress.state)
    if progress.error is not None:
        text, code = progress.error
        document["error"] = {"msg": _text(text)}
        if code:
            document["error"] = {"msg": _text(text), "code": _int32(code)}
    return document


def _enum(name: str, value: Severity | TaskState) -> dict[str, object]:
    return {} if value in _ZERO else {name: value.value}


def _text(text: str) -> str:
    """What UTF-8 can carry: a key from JSON may hold half a surrogate pair."""
    return text.encode("utf-8", "replace").decode()


def _int32(code: int) -> int:
    return max(_LEAST_CODE, min(_MOST_CODE, code))
