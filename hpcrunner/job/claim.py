"""The claim: one file per attempt, made by the one process that may run it.

A submission that was repeated after a crash can put a second job on the same attempt. Creating
a file with O_EXCL lets exactly one of them win, on NFS version 3 and later too (open(2)).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

from hpcrunner.sync import sync_folder


class Claim(Enum):
    """What came of asking for an attempt."""

    TAKEN = "taken"
    TAKEN_AGAIN = "taken again"  # the scheduler started the same job once more
    DUPLICATE = "duplicate"  # another job runs or ran it


@dataclass(frozen=True, slots=True)
class Owner:
    """Who claims. ``restarts`` is Slurm's count of requeues of this job, 0 at first."""

    host: str
    pid: int
    job_id: str
    restarts: int
    time: float


def this_process(environ: Mapping[str, str]) -> Owner:
    """This process as an owner; ``job_id`` is empty where no scheduler names one."""
    try:
        restarts = int(environ.get("SLURM_RESTART_COUNT", "0"))
    except ValueError:
        restarts = 0
    return Owner(os.uname().nodename, os.getpid(), job_id(environ), restarts, time.time())


def job_id(environ: Mapping[str, str]) -> str:
    """The job's id in the words its submitter knows: ``<array>_<task>`` for an array's task."""
    array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        return f"{array}_{task}"
    return environ.get("SLURM_JOB_ID", "")


def take_claim(path: Path, owner: Owner) -> Claim:
    """Claim the attempt of this file for ``owner``. Raises OSError.

    The file is a JSON object a line: the first claim, then one for each restart.
    """
    line = (json.dumps(asdict(owner)) + "\n").encode()
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if not _restarted(path, owner):
            return Claim.DUPLICATE
        _write(os.open(path, os.O_WRONLY | os.O_APPEND), line)
        return Claim.TAKEN_AGAIN
    _write(fd, line)
    sync_folder(path.parent)
    return Claim.TAKEN


def _write(fd: int, line: bytes) -> None:
    try:
        os.write(fd, line)
        os.fsync(fd)
    finally:
        os.close(fd)


def _restarted(path: Path, owner: Owner) -> bool:
    """Whether the claim is this same job's, from before the scheduler requeued it."""
    try:
        last = Owner(**json.loads(path.read_bytes().splitlines()[-1]))
    except (ValueError, TypeError, IndexError):
        return False  # torn or foreign: whoever wrote it may be running
    if not owner.job_id or last.job_id != owner.job_id:
        return False
    if owner.restarts > last.restarts:
        return True
    # Without a count, the same job on another node, or after its first process, is a restart.
    return last.host != owner.host or (last.pid != owner.pid and not _alive(last.pid))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
