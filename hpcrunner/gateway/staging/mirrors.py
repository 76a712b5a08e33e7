"""The client's database record and its ``_status``, where the job side can neither read nor write.

The job side has a record of its own on the shared file system, and changes it as it would change
the client's. Now and then the two are compared: what the job says goes to the client, the client's
wish to stop goes to the job. That an experiment has finished is not passed on: the client hears it
from the gateway, after its results are out (client_records.py).
"""

from __future__ import annotations

import io
import json
from contextlib import suppress
from typing import Any

from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.preparation import Attempt
from hpcrunner.gateway.staging.layout import STATUS, Layout, carried
from hpcrunner.request.location import Location
from hpcrunner.request.plan import PlannedExperiment
from hpcrunner.request.redact import redact_document
from hpcrunner.storage.contract import ArtifactNotFound
from hpcrunner.storage.database import (
    RUNNING,
    STOPPED,
    WAITING,
    change_record,
    read_record,
)
from hpcrunner.storage.file import FileStore
from hpcrunner.storage.stores import store_for

_LARGEST_STATUS = 1 << 20
Record = dict[str, Any]


def begin(planned: PlannedExperiment, attempt: Attempt, layout: Layout) -> None:
    """Before the job starts: the record as the client has it now, and its ``_status``.

    What cannot be read is none; it may be found later. Raises OSError.
    """
    with suppress(HpcrunnerError):
        if planned.record is not None and carried(planned.record):
            theirs = read_record(planned.record)
            if theirs is not None:
                body = json.dumps(redact_document(theirs)).encode()
                FileStore(private=True).put(_ours(attempt, layout), io.BytesIO(body), len(body))
    with suppress(HpcrunnerError):
        _copy_status(planned, attempt, layout)


def compare(planned: PlannedExperiment, attempt: Attempt, layout: Layout) -> None:
    """Pass on what is news on either side. Raises HpcrunnerError, OSError."""
    _copy_status(planned, attempt, layout)
    theirs_at = planned.record
    if theirs_at is None or not carried(theirs_at):
        return
    ours_at = _ours(attempt, layout)
    ours, theirs = read_record(ours_at), read_record(theirs_at)
    if theirs and theirs.get("status") == STOPPED and (ours or {}).get("status") != STOPPED:
        document = json.dumps(redact_document(theirs))
        change_record(ours_at, document, lambda record: record.update(status=STOPPED))
    if ours:
        change_record(theirs_at, planned.document, lambda record: tell(record, ours))


def tell(theirs: Record, ours: Record) -> None:
    """Change the client's record by what the job says; its ``stopped`` stays."""
    status = ours.get("status")
    told = {name: ours[name] for name in ("time_started", "time_last_checkpoint") if ours.get(name)}
    if status == RUNNING:
        told |= {"status": RUNNING, "time_finished": None}
    elif status == WAITING and "hpcrunner" in ours:  # another attempt follows
        told |= {"status": WAITING, "hpcrunner": ours["hpcrunner"]}
    if theirs.get("status") == STOPPED:
        told.pop("status", None)
    if not ours.get("time_started"):
        return  # nothing has run yet: it is still as the client wrote it
    theirs.update(told)


def _copy_status(planned: PlannedExperiment, attempt: Attempt, layout: Layout) -> None:
    for artifact in planned.artifacts:
        if artifact.tag != STATUS or not carried(artifact.location):
            continue
        with suppress(ArtifactNotFound):
            with store_for(artifact.location).open(artifact.location) as found:
                body = found.stream.read(_LARGEST_STATUS + 1)
            place = layout.place(attempt, STATUS, mutable=False)
            same = place.exists() and place.read_bytes() == body
            if not same and len(body) <= _LARGEST_STATUS:
                store = FileStore(private=True)
                store.put(Location("file", key=str(place)), io.BytesIO(body), len(body))


def _ours(attempt: Attempt, layout: Layout) -> Location:
    return Location("file", key=str(layout.record(attempt)))
