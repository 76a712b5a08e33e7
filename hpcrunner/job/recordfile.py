"""The record on disk: whole or not there, and written once."""

from __future__ import annotations

import os
from pathlib import Path

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
        # The claim leaves one writer, so that this look is no race.
        if path.exists():
            return False
        temporary.rename(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def make_way(path: Path) -> bool:
    """Whether a job that the scheduler requeued may run: True where no ending stands.

    A preempted run wrote CANCELLED; that the same job runs again shows that it was not the
    end, so that record is withdrawn. Any other record stands. Raises OSError.
    """
    try:
        record = record_from_json(path.read_text("utf-8"))
    except FileNotFoundError:
        return True
    except RecordError:
        return False
    if record.reason is not Reason.CANCELLED:
        return False
    path.unlink()
    return True
