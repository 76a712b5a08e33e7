"""The payload's process tree: started in a session of its own, and ended to the last process.

Linux only: processes are found through /proc (proc(5)), and orphans of the payload become ours
by prctl(2) PR_SET_CHILD_SUBREAPER, also those that made sessions of their own.

Where we are killed ourselves, the payload's own process gets SIGKILL by PR_SET_PDEATHSIG. Its
children are left to the scheduler: one that tracks them by cgroup kills them too; where Slurm
has ProctrackType linuxproc or pgid, or nothing is tracked, they may live on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from hpcrunner.job.limits import LAST_CALL
from hpcrunner.job.payload import PayloadNotStarted
from hpcrunner.procfs import BORN, GONE, PARENT, PROC, STATE, stat_of, stats
from hpcrunner.sessions import Watchdog

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
KILL_PATIENCE = 5.0  # a process in uninterruptible sleep may outlive SIGKILL
# What holds an image's file system up while a container runs.
MOUNTERS = ("squashfuse_ll", "squashfuse", "fuse2fs", "fuse-overlayfs", "gocryptfs")
_NO_PAYLOADS = frozenset(name[:15].encode() for name in (*MOUNTERS, "appinit"))  # proc(5)
# A moment of the monotonic clock. It is asked again and again: a signal can bring it nearer.
Until = Callable[[], float]


class PayloadProcess:
    """A running payload. ``pipe`` is the reading end of its standard output and error.

    Only this class waits for children while it lives: a look at who ended must not take the
    payload's own status away.
    """

    def __init__(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        cwd: Path,
        contained: bool = False,
        spared: Collection[int] = (),
    ) -> None:
        """Start it, with the signals that it is ``spared`` ignored until it wants them itself.

        Raises PayloadNotStarted where the system refuses.

        ``contained``: the words are a container runtime's, and the payload is below it.
        """
        self._contained = contained
        prctl = _prctl()
        prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        us = os.getpid()

        def die_with_us() -> None:
            """In the child before it executes: nothing but system calls."""
            for signum in spared:
                signal.signal(signum, signal.SIG_IGN)
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != us:
                os._exit(128 + signal.SIGKILL)

        self.pipe, write = os.pipe()
        try:
            self._popen = subprocess.Popen(
                words,
                env=environment,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=write,
                stderr=write,
                start_new_session=True,
                preexec_fn=die_with_us,
            )
        except (OSError, ValueError) as error:
            os.close(self.pipe)
            what = getattr(error, "strerror", None) or str(error)
            raise PayloadNotStarted(
                f"cannot be started ({what})",
                where=words[0],
                remedy="is the interpreter or container runtime there on the nodes?",
            ) from error
        finally:
            os.close(write)
        self._watchdog = Watchdog(self._popen.pid) if contained else None

    @property
    def pid(self) -> int:
        """The process id of the payload, and of its session and group."""
        return self._popen.pid

    def poll(self) -> int | None:
        """Reap all that ended; the payload's return code (negative: signal), or None."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                break
            if ended is None:
                break
            if ended.si_pid == self._popen.pid:
                self._popen.wait()
            else:
                os.waitpid(ended.si_pid, 0)
        return self._popen.returncode

    def end(self, until: Until, first: int = signal.SIGTERM, told: bool = False) -> bool:
        """End the whole tree by ``until``; what is left then gets SIGKILL.

        ``first`` is the payload's first signal. SIGTERM goes to every process, as Slurm's does.
        Any other goes to the payload's own process, since those that do not expect it die of
        it; SIGTERM to every process follows LAST_CALL seconds before the end, or once the
        payload's own process has ended.

        ``told``: somebody else has sent SIGTERM to all. A second one would cut short what a
        payload does to save itself, so ours waits for half of the time. Returns False where
        something outlived even SIGKILL.
        """
        try:
            return self._end(until, first, told)
        finally:
            if self._watchdog is not None:
                self._watchdog.call_off()
                self._watchdog = None

    def _end(self, until: Until, first: int, told: bool) -> bool:
        began = time.monotonic()
        if first != signal.SIGTERM and self.poll() is None:
            os.kill(self._popen.pid, first)  # not reaped, so the number is still its own
            last_call = min(LAST_CALL, (until() - began) / 4)
            self._gone(lambda: until() - last_call, own_only=True)
            return self._gone_after(signal.SIGTERM, _after(last_call)) or self._killed()
        if told:
            half = (began + until()) / 2
            if self._gone(lambda: min(half, until())):
                return True
        return self._gone_after(signal.SIGTERM, until) or self._killed()

    def _gone_after(self, signum: int, until: Until) -> bool:
        all_of_it = self._descendants()
        if self._contained and signum != signal.SIGKILL:
            all_of_it = payloads_own(all_of_it, self._popen.pid)
        _signal(all_of_it, signum)
        return self._gone(until)

    def _descendants(self) -> list[int]:
        watchdog = self._watchdog.pid if self._watchdog else None
        return [pid for pid in descendants(os.getpid()) if pid != watchdog]

    def _killed(self) -> bool:
        patience = time.monotonic() + KILL_PATIENCE
        while time.monotonic() <= patience:
            # Again and again: what forks while it is killed is found on the next look.
            if self._gone_after(signal.SIGKILL, _after(0.05)):
                return True
        return False

    def _gone(self, until: Until, own_only: bool = False) -> bool:
        """Whether all have ended by then, or with ``own_only`` the payload's own process."""
        pause = 0.01
        while True:
            ended = self.poll() is not None
            if ended and (own_only or not self._descendants()):
                return True
            if time.monotonic() >= until():
                return False
            time.sleep(pause)
            pause = min(pause * 2, 0.2)


def _after(seconds: float) -> Until:
    moment = time.monotonic() + seconds
    return lambda: moment


def own_start(now: float) -> float:
    """When this process began, epoch seconds: before that time it was the batch script.

    From starttime in proc(5), which counts from the boot; ``now`` where that cannot be read.
    """
    stat = stat_of("self")
    if stat is None:
        return now
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(stat[BORN]) / os.sysconf("SC_CLK_TCK")
    return now - max(0.0, age)


def descendants(of: int) -> list[int]:
    """All living processes below ``of``, zombies left out."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    gone = set()
    for pid, stat in stats():
        children[int(stat[PARENT])].append(pid)
        if stat[STATE] in GONE:
            gone.add(pid)
    found, todo = [], [of]
    while todo:
        below = children[todo.pop()]
        todo += below
        found += [pid for pid in below if pid not in gone]
    return found


def payloads_own(pids: Sequence[int], runtime: int) -> list[int]:
    """Those processes below a container's runtime that are the payload's.

    The runtime passes signals on to the payload's first process, which would get them twice, and
    what mounts the image for it must outlive the payload. The payload is known by its own PID
    namespace, in which process 1 is the runtime's; without one, by what it is not.
    """
    inside = [pid for pid in pids if (number := _number_inside(pid)) is not None and number != 1]
    if inside:
        return inside
    return [pid for pid in pids if pid != runtime and _name(pid) not in _NO_PAYLOADS] or [runtime]


def _number_inside(pid: int) -> int | None:
    """The number of a process in a PID namespace below ours; None where it is in ours."""
    numbers = _status(pid, b"NSpid:").split()
    return int(numbers[-1]) if len(numbers) > len(_status("self", b"NSpid:").split()) else None


def _name(pid: int) -> bytes:
    return _status(pid, b"Name:").strip()


def _status(pid: int | str, field: bytes) -> bytes:
    """A line of proc(5)'s status; empty once the process has ended."""
    try:
        lines = Path(PROC, str(pid), "status").read_bytes().splitlines()
    except OSError:
        return b""
    return next((line[len(field) :] for line in lines if line.startswith(field)), b"")


def _signal(pids: Sequence[int], signum: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, signum)
        except (ProcessLookupError, PermissionError):
            continue  # ended meanwhile, or runs as somebody else


def _prctl() -> Callable[..., int]:
    """prctl(2), resolved before any fork."""
    import ctypes

    prctl: Callable[..., int] = ctypes.CDLL(None, use_errno=True).prctl
    return prctl
