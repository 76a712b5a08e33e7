"""Which processes belong to a task on this machine, read from /proc; see proc(5)."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


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
    stat = _stat(pid)
    if stat is None or stat[0] in ("Z", "X"):
        return None
    return Identity(pid, int(stat[19]), boot_id())


def alive(identity: Identity) -> bool:
    """Whether that very process still runs."""
    return identify(identity.pid) == identity


def boot_id() -> str:
    """The kernel's name for this boot."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def members(session: int, mark: str) -> list[int]:
    """The processes of a session, and those that left it with ``mark`` in their environment.

    ``mark`` is a whole ``NAME=value``. Processes of other users are nobody's here.
    """
    wanted = mark.encode()
    found = []
    for entry in os.listdir(_PROC):
        if not entry.isdecimal():
            continue
        pid = int(entry)
        stat = _stat(pid)
        if stat is None or stat[0] in ("Z", "X"):
            continue
        if int(stat[3]) == session:
            found.append(pid)
            continue
        with contextlib.suppress(OSError):
            if wanted in (_PROC / entry / "environ").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def send(pids: list[int], signum: signal.Signals) -> None:
    """Send a signal to each that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signum)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; the command's name may hold anything."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return fields if len(fields) > 19 else None
