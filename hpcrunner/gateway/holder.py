"""Who holds a spool: the one line in its lock file, and what it tells of a holder's life."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from hpcrunner.schedulers.processes import Identity, alive, identify

_TIME = "%Y-%m-%dT%H:%M:%S%z"


@dataclass(frozen=True, slots=True)
class Holder:
    """The line ``host H pid P since T life L beat N``, N growing while the holder lives.

    ``since`` is a local time with its offset. ``life`` names the process beyond doubt:
    ``<boot id>:<pid namespace>:<start time in ticks>``. All are words without blanks, for people
    to read and for a contender to compare; an older line may lack the last two.
    """

    host: str
    pid: int
    since: str
    life: str
    beat: int = 0

    def line(self, beat: int) -> bytes:
        """The line with that beat; the same length for every beat, so that it is rewritten in
        place.
        """
        who = f"host {self.host} pid {self.pid} since {self.since}"
        return f"{who} life {self.life} beat {beat:010d}\n".encode()

    def same_as(self, other: Holder | None) -> bool:
        """Whether both lines are of one process."""
        return other is not None and (
            (self.host, self.pid, self.since, self.life)
            == (other.host, other.pid, other.since, other.life)
        )

    def words(self) -> str:
        """For people: host, pid, and since when."""
        since = f" since {self.since}" if self.since else ""
        return f"host {self.host} pid {self.pid}{since}"

    def surely_dead(self) -> bool:
        """True where this machine's own process table says that the holder is no more."""
        boot, _, rest = self.life.partition(":")
        namespace, _, born = rest.partition(":")
        if not born.isdecimal() or namespace != _pid_namespace():
            return False
        here = identify(os.getpid())
        return (
            here is not None
            and here.boot == boot
            and not alive(Identity(self.pid, int(born), boot))
        )


def this_process() -> Holder:
    """This process as a holder, from now on."""
    me = identify(os.getpid())
    life = f"{me.boot}:{_pid_namespace()}:{me.born}" if me else "unknown"
    since = time.strftime(_TIME, time.localtime())
    return Holder(socket.gethostname(), os.getpid(), since, life)


def read_holder(text: str) -> Holder | None:
    """The holder of a lock file's text, or None where it is empty. Never fails: a line that
    cannot be read is somebody's all the same.
    """
    words = text.split()
    if not words:
        return None
    said = dict(zip(words[::2], words[1::2], strict=False))
    pid, beat = said.get("pid", ""), said.get("beat", "")
    return Holder(
        host=said.get("host", "unknown"),
        pid=int(pid) if pid.isdecimal() else 0,
        since=said.get("since", ""),
        life=said.get("life", ""),
        beat=int(beat) if beat.isdecimal() else 0,
    )


def _pid_namespace() -> str:
    """Process ids mean something only within one of these; see pid_namespaces(7)."""
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "unknown"
