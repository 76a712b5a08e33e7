"""Taking the claim of an attempt on the node; request/claim.py says what a claim is."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from hpcrunner.request.claim import Owner, claims, make_claim
from hpcrunner.request.scheduler_words import words_of


class Claim(Enum):
    """What came of asking for an attempt."""

    TAKEN = "taken"
    TAKEN_AGAIN = "taken again"  # the scheduler started the same job once more
    DUPLICATE = "duplicate"  # another job runs or ran it, or the gateway has given it up


def this_process(environ: Mapping[str, str]) -> Owner:
    """This process as an owner; ``job_id`` is empty where no scheduler names one."""
    restarts = restart_count(environ)
    return Owner(os.uname().nodename, os.getpid(), job_id(environ), restarts, time.time())


def restart_count(environ: Mapping[str, str]) -> int:
    """How often the scheduler has started this job again, as far as it counts."""
    return words_of(environ).restart_count(environ)


def job_id(environ: Mapping[str, str]) -> str:
    """The job's id in the words its submitter knows; empty where no scheduler names one."""
    return words_of(environ).job_id(environ)


def take_claim(path: Path, owner: Owner) -> Claim:
    """Claim the attempt of this file for ``owner``. Raises OSError."""
    held = claims(path)
    while not held or _restarted(held[-1], owner):
        if make_claim(path, len(held), owner):
            return Claim.TAKEN_AGAIN if held else Claim.TAKEN
        held = claims(path, at_least=len(held) + 1)
    return Claim.DUPLICATE


def _restarted(last: Owner | None, owner: Owner) -> bool:
    """Whether the last claim is this same job's, from before the scheduler started it again."""
    if last is None or last.fenced:
        return False  # torn, and whoever wrote it may be running; or given up by the gateway
    if not owner.job_id or last.job_id != owner.job_id:
        return False
    if owner.restarts != last.restarts:
        return owner.restarts > last.restarts
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
