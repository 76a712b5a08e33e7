"""The attempt's word to the client, in the client's database record.

Nothing here may fail an attempt, so every error becomes an event. What was told at the end is
noted too (event ``client_told``): the gateway tells whatever was not.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Any

from hpcrunner.job.ending import STOPPED_BY_CLIENT, Outlook
from hpcrunner.job.events import Events
from hpcrunner.job.limits import Stop
from hpcrunner.request.location import Location
from hpcrunner.request.plan import PlannedExperiment
from hpcrunner.request.reasons import Reason
from hpcrunner.storage import database
from hpcrunner.storage.database import Change, Said

CLIENT_PATIENCE = 60.0


class ClientRecord:
    """The record at one location, as the attempt of that experiment changes it."""

    def __init__(self, location: Location, experiment: PlannedExperiment, events: Events) -> None:
        self._location = location
        self._experiment = experiment
        self._events = events
        self._lock = threading.Lock()  # saves and the end may come from two threads

    def stopped(self) -> Stop | None:
        """The client's wish to stop; None where there is none or nobody can tell."""
        try:
            record = database.read_record(self._location)
        except Exception:  # the next look may succeed
            return None
        return STOPPED_BY_CLIENT if record and record.get("status") == database.STOPPED else None

    def start(self) -> None:
        """Status running, ``time_started`` now, as the client's worker does."""
        self._change(database.started(time.time()))

    def checkpoint(self) -> None:
        """``time_last_checkpoint`` now."""
        self._change(database.checkpointed(time.time()))

    def end(self, reason: Reason, text: str, outlook: Outlook, *, ran: bool) -> None:
        """What the attempt's ending means to the client; nothing where only the gateway knows.

        ``ran``: its payload did, so that there was a last save.
        """
        now = time.time()
        said = Said(self._experiment.id, self._experiment.attempt, reason, text)
        if outlook is Outlook.FINAL:

            def change(record: dict[str, Any]) -> None:
                if ran:
                    database.checkpointed(now)(record)
                database.finished(now, said)(record)

            told = self._change(change)
        elif outlook is Outlook.FOLLOWED:
            told = self._change(database.waits_again(said))
        else:
            return
        if told:
            told_at = self._location.scheme
            self._events.note("client_told", outlook=outlook.value, reason=reason.value, at=told_at)

    def _change(self, change: Change) -> bool:
        try:
            with self._lock:
                database.change_record(self._location, self._experiment.document, change)
        except Exception as error:
            what = str(error) or type(error).__name__
            self._events.tell("record_failed", f"client's record not written: {what}")
            return False
        return True


def client_record(experiment: PlannedExperiment, events: Events) -> ClientRecord | None:
    """The record of an experiment; None where it has none that we can write."""
    if experiment.record is None:
        return None
    return ClientRecord(experiment.record, experiment, events)


def tell_client(
    client: ClientRecord | None, reason: Reason, text: str, outlook: Outlook, *, ran: bool
) -> None:
    """See ClientRecord.end; a store that hangs is waited for CLIENT_PATIENCE seconds."""
    if client is not None:
        tell = partial(client.end, reason, text, outlook, ran=ran)
        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        thread.join(CLIENT_PATIENCE)
