"""The client's database record of an experiment: one JSON object in the client's own store.

The client writes it before it sends the request, and reads it to see how the experiment is:

=========  ===================================================================
waiting    the client's; ours again before another attempt
running    with ``time_started``, once the payload is about to start
finished   with ``time_finished``, however it ended: clients know no failure
stopped    the client's wish to end it, which stays
=========  ===================================================================

``time_last_checkpoint`` is the time of the last save. How it ended stands in a member of our
own, ``hpcrunner``, which clients pass over.

There is no locking: S3 objects and files are read, changed and written whole, as the client's own
workers do it. The object holds the experiment's artifacts with their credentials.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from hpcrunner.request.location import Location
from hpcrunner.request.reasons import Reason
from hpcrunner.request.redact import redact_text
from hpcrunner.storage.contract import ArtifactNotFound, StorageError, Store

WAITING, RUNNING, FINISHED, STOPPED = "waiting", "running", "finished", "stopped"
_LARGEST = 64 << 20
Change = Callable[[dict[str, Any]], object]


@dataclass(frozen=True, slots=True)
class Said:
    """What the record says of an attempt's ending, for people. ``experiment`` is our id."""

    experiment: str
    attempt: int
    reason: Reason
    text: str

    def member(self) -> dict[str, Any]:
        """The record's member ``hpcrunner``."""
        return {
            "experiment": self.experiment,
            "attempt": self.attempt,
            "reason": self.reason.value,
            "text": redact_text(self.text),
        }


def started(now: float) -> Change:
    """It runs since ``now`` (epoch seconds)."""
    return lambda r: r.update(status=RUNNING, time_started=now, time_finished=None)


def checkpointed(now: float) -> Change:
    """Its results were saved at ``now``."""
    return lambda record: record.update(time_last_checkpoint=now)


def finished(now: float, said: Said) -> Change:
    """It is over; a client's ``stopped`` stays."""

    def change(record: dict[str, Any]) -> None:
        record["time_finished"] = now
        record["hpcrunner"] = said.member()
        if record.get("status") != STOPPED:
            record["status"] = FINISHED

    return change


def waits_again(said: Said) -> Change:
    """An attempt failed and another follows; a client's ``stopped`` stays."""

    def change(record: dict[str, Any]) -> None:
        record["hpcrunner"] = said.member()
        if record.get("status") != STOPPED:
            record["status"] = WAITING

    return change


def read_record(location: Location) -> dict[str, Any] | None:
    """The record, None where there is none. Raises StorageError."""
    if location.scheme == "firebase":
        from hpcrunner.storage import firebase

        record = firebase.read(location)
        if record is None:
            return None
    else:
        try:
            with _store(location).open(location) as download:
                record = _parsed(download.stream.read(_LARGEST), location)
        except ArtifactNotFound:
            return None
    if not isinstance(record, dict):
        raise StorageError(
            "is not a JSON object", where=str(location), remedy="did a client write it?"
        )
    return record


def change_record(location: Location, document: str | None, change: Change) -> None:
    """Read the record, change it, and write it back if that made a difference.

    Where there is none, ``document`` (JSON text) is what is changed; with None, none is made.
    Raises StorageError.
    """
    before = read_record(location)
    if before is None and document is None:
        return
    record = deepcopy(before) if before is not None else json.loads(document or "{}")
    change(record)
    if record == before:
        return
    if location.scheme == "firebase":
        from hpcrunner.storage import firebase

        if before is None:
            firebase.replace(location, record)
        else:
            different = {k: v for k, v in record.items() if before.get(k) != v}
            if different:
                firebase.update(location, different)
        return
    body = json.dumps(record).encode()
    _store(location).put(location, io.BytesIO(body), len(body))


def _parsed(body: bytes, location: Location) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise StorageError(
            "is not JSON", where=str(location), remedy="is it being written just now?"
        ) from None


def _store(location: Location) -> Store:
    if location.scheme == "file":
        from hpcrunner.storage.file import FileStore

        return FileStore(private=True)  # it holds credentials
    from hpcrunner.storage.stores import store_for

    return store_for(location)
