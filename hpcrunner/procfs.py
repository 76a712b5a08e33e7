"""Processes as proc(5) tells of them. Linux only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
# Where a process's fields lie in what is returned here.
STATE, PARENT, SESSION = 0, 1, 3
CPU_TIMES = slice(11, 15)  # of its own and of children it has waited for, in clock ticks
BORN = 19  # clock ticks since the boot
RESIDENT = 21  # pages
GONE = (b"Z", b"X")  # states of what has ended and is not reaped yet


def stat_of(pid: int | str) -> list[bytes] | None:
    """The fields of a process's ``stat`` from its state on; None once it is no more."""
    try:
        text = Path(PROC, str(pid), "stat").read_bytes()
    except OSError:
        return None
    # The command before them, in parentheses, may itself hold blanks and parentheses.
    fields = text.rpartition(b")")[2].split()
    return fields if len(fields) > RESIDENT else None


def stats() -> Iterator[tuple[int, list[bytes]]]:
    """All processes that are there, those that have ended and are not reaped included."""
    for name in os.listdir(PROC):
        if name.isdecimal() and (stat := stat_of(name)) is not None:
            yield int(name), stat
