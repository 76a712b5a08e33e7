"""The client's database record of an experiment: one JSON object in the client's own store.

Status goes waiting → running → finished; the client itself writes ``stopped`` to end a run.
There is no locking: every change is a read-modify-write of the whole object, as the client's own
workers do it. Nothing here may fail an attempt, so every error becomes an event.

The object holds the experiment's artifacts with their credentials, as the client wrote them.
"""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from hpcrunner.job.events import Events
from hpcrunner.job.limits import Stop
from hpcrunner.job.stopwatch import STOPPED_BY_CLIENT
from hpcrunner.request.location import Location
from hpcrunner.storage.contract import ArtifactNotFound, Store

WAITING, RUNNING, FINISHED, STOPPED = "waiting", "running", "finished", "stopped"
_LARGEST = 64 << 20


class ClientRecord:
    """The record at one location; ``document`` is its content where there is none yet."""

    def __init__(self, location: Location, document: str, events: Events) -> None:
        self._location = location
        self._document = document
        self._events = events
        self._lock = threading.Lock()  # saves and the end may come from two threads

    def stopped(self) -> Stop | None:
        """The client's wish to stop; None where there is none or nobody can tell."""
        try:
            record = self._read()
        except Exception:  # the next look may succeed
            return None
        return STOPPED_BY_CLIENT if record and record.get("status") == STOPPED else None

    def start(self) -> None:
        """Status running, ``time_started`` now, as the client's worker does."""
        now = time.time()
        self._change(lambda r: r.update(status=RUNNING, time_started=now, time_finished=None))

    def checkpoint(self) -> None:
        """``time_last_checkpoint`` now."""
        self._change(lambda record: record.update(time_last_checkpoint=time.time()))

    def finish(self) -> None:
        """Status finished whatever the ending, as the client expects; ``stopped`` stays."""

        def finished(record: dict[str, Any]) -> None:
            record["time_finished"] = record["time_last_checkpoint"] = time.time()
            if record.get("status") != STOPPED:
                record["status"] = FINISHED

        self._change(finished)

    def _change(self, change: Callable[[dict[str, Any]], object]) -> None:
        try:
            with self._lock:
                record = self._read()
                if record is None:
                    record = json.loads(self._document)
                change(record)
                body = json.dumps(record).encode()
                self._store().put(self._location, io.BytesIO(body), len(body))
        except Exception as error:
            what = str(error) or type(error).__name__
            self._events.tell("record_failed", f"client's record not written: {what}")

    def _store(self) -> Store:
        if self._location.scheme == "file":
            from hpcrunner.storage.file import FileStore

            return FileStore(private=True)  # it holds credentials
        from hpcrunner.storage.stores import store_for

        return store_for(self._location)

    def _read(self) -> dict[str, Any] | None:
        try:
            with self._store().open(self._location) as download:
                record = json.loads(download.stream.read(_LARGEST))
        except ArtifactNotFound:
            return None
        if not isinstance(record, dict):
            raise ValueError(f"{self._location} is not a JSON object")
        return record
