"""The record on disk: whole or not there, and written once."""

from __future__ import annotations

import os
from pathlib import Path

from hpcrunner.crashpoint import crashpoint
from hpcrunner.request.plan import Plan
from hpcrunner.request.reasons import Reason
from hpcrunner.request.record import Record, RecordError, record_from_json
from hpcrunner.sync import sync_folder


def write_record(path: Path, record: Record) -> bool:
    """Write the record by rename, synced; False where the attempt already has one.

    The file appears under its name with all its bytes on disk; mode 0600. Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(record.to_json())
            file.flush()
            os.fsync(file.fileno())
        crashpoint("job.before_record")
        # The claim leaves one writer, so that this look is no race.
        if path.exists():
            return False
        temporary.rename(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def read_record(path: Path, plan: Plan, index: int) -> Record | None:
    """The record that this attempt has left already, or None.

    Raises RecordError for a damaged one and one of another attempt, OSError.
    """
    try:
        record = record_from_json(path.read_text("utf-8", "replace"), where=str(path))
    except FileNotFoundError:
        return None
    experiment = plan.experiment(index)
    theirs = (record.batch, record.index, record.experiment, record.attempt)
    ours = (plan.batch, index, experiment.id, experiment.attempt)
    if theirs != ours:
        words = "batch {}, task {}, experiment {}, attempt {}"
        raise RecordError(
            f"the record of {words.format(*theirs)}; this is {words.format(*ours)}",
            where=str(path),
            remedy="was the spool restored from a backup, or copied?",
        )
    return record


def make_way(path: Path, record: Record) -> bool:
    """Whether a job that the scheduler restarted may run although this record stands.

    A preempted run wrote CANCELLED; that the same job runs again shows that it was not the
    end, so that record is withdrawn. Any other record stands. Raises OSError.
    """
    if record.reason is not Reason.CANCELLED:
        return False
    path.unlink()
    return True
