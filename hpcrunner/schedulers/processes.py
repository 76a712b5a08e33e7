"""Which processes belong to a task on this machine, read from /proc; see proc(5)."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass

from hpcrunner.procfs import BORN, GONE, PROC, SESSION, STATE, stat_of, stats


@dataclass(frozen=True, slots=True)
class Identity:
    """A process that no other process is ever taken for: ids are used again, births are not.

    ``born`` is the start time in clock ticks after the boot named by ``boot``.
    """

    pid: int
    born: int
    boot: str


def identify(pid: int) -> Identity | None:
    """The process that has this id now, or None; a zombie counts as gone."""
    stat = stat_of(pid)
    if stat is None or stat[STATE] in GONE:
        return None
    return Identity(pid, int(stat[BORN]), boot_id())


def alive(identity: Identity) -> bool:
    """Whether that very process still runs."""
    return identify(identity.pid) == identity


def boot_id() -> str:
    """The kernel's name for this boot."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def members(session: int, mark: str) -> list[int]:
    """The processes of a session, and those that left it with ``mark`` in their environment.

    ``mark`` is a whole ``NAME=value``. Processes of other users are nobody's here.
    """
    wanted = mark.encode()
    found = []
    for pid, stat in stats():
        if stat[STATE] in GONE:
            continue
        if int(stat[SESSION]) == session:
            found.append(pid)
            continue
        with contextlib.suppress(OSError):
            if wanted in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def send(pids: list[int], signum: signal.Signals) -> None:
    """Send a signal to each that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signum)
