"""One gateway per spool: a lock that no two hold, on whatever file system the spool lies.

The lock is an exclusive flock(2) on ``gateway.lock``. Over NFS that is a lock on the server
(nfs(5)), but a mount may keep it to its own node (``local_lock``, ``nolock``), and then two nodes
would both get it. So the holder also rewrites its line in the file every BEAT seconds, and whoever
gets the flock while the file names a holder takes the spool only if that one is known to be dead:
by this machine's process table, because its flock was seen to keep us out and no longer does, or
because its line has not changed for LEASE seconds of watching. Clocks of two nodes are never
compared. Behind all that stands the journal's fence (``Journal.take_over``).
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.holder import Holder, read_holder, this_process
from hpcrunner.gateway.spool import SpoolError
from hpcrunner.notices import Notices

log = logging.getLogger(__name__)

BEAT = 10.0
LEASE = 60.0
_LONGEST_LINE = 1000
_LONGEST_GAP = 6.0  # between two looks; a longer one tells nothing of what was not looked at
_APART = 0.5  # between two looks that count as two
_EFFECTIVE = 2  # refusals by one holder's flock, after which its absence tells something


class SpoolBusy(HpcrunnerError):
    """Another gateway works on this spool."""

    exit_code = 75  # EX_TEMPFAIL


class SpoolLost(HpcrunnerError):
    """This gateway's lock is not its own any more: it may do nothing further."""

    exit_code = 75  # EX_TEMPFAIL


class SpoolLock:
    """A lock that is held, until closed or the process ends. Made by Contender."""

    def __init__(self, path: Path, handle: int, me: Holder, beat: float) -> None:
        """``handle`` is the open, locked file. Raises SpoolError where nothing can be written."""
        self._path = path
        self._handle = handle
        self._me = me
        self._line = b""
        self._beats = 0
        self._writing = threading.Lock()
        self._closed = threading.Event()
        self._notices = Notices(log)
        try:
            self._write()
        except OSError as error:
            raise _unusable(path, error) from error
        threading.Thread(target=self._keep_beating, args=(beat,), daemon=True).start()

    def check(self) -> None:
        """Raise SpoolLost where the lock file was replaced, or bears somebody else's line."""
        lost = self._lost()
        if lost:
            raise SpoolLost(
                f"{lost}; this gateway stops",
                where=f"spool {self._path.parent}",
                remedy="its jobs go on, and the gateway that holds the spool follows them",
            )

    def close(self) -> None:
        """Let the lock go. The file stays: removing it would let two holders meet."""
        with self._writing:
            if self._closed.is_set():
                return
            self._closed.set()
            try:
                if not self._lost():
                    os.ftruncate(self._handle, 0)
            except OSError as error:
                log.warning("%s: cannot be emptied (%s)", self._path, error.strerror)
            os.close(self._handle)

    def _keep_beating(self, beat: float) -> None:
        # A thread of its own: a scheduler that hangs for half a minute must not look like death.
        while not self._closed.wait(beat):
            with self._writing:
                if self._closed.is_set() or self._lost():
                    return
                try:
                    self._write()
                except OSError as error:
                    self._notices.warn(
                        "beat",
                        f"{self._path}: cannot show that this gateway lives ({error.strerror}); "
                        "a standby may take over",
                    )
                else:
                    self._notices.over("beat", f"{self._path}: can be written again")

    def _write(self) -> None:
        line = self._me.line(self._beats + 1)
        os.pwrite(self._handle, line, 0)
        os.ftruncate(self._handle, len(line))
        os.fsync(self._handle)
        self._beats += 1

    def _lost(self) -> str:
        try:
            there = self._path.stat()
            mine = os.fstat(self._handle)
            holder = _read(self._handle)
        except FileNotFoundError:
            return "its lock file was removed"
        except OSError:
            return ""  # the disk is away; that does not give the lock to anybody
        if (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
            return "its lock file was replaced"
        if holder is None:
            return "its lock file was emptied"
        if not self._me.same_as(holder):
            return f"it was taken over by {holder.words()}"
        return ""


class Contender:
    """One who wants a spool's lock, and what it has seen of the holder so far.

    ``lives`` tells whether the last look showed that the holder lives, not only that it may.
    ``clock`` is a steady clock. ``flock`` stands in for fcntl.flock, ``me`` for this process.
    """

    def __init__(
        self,
        path: Path,
        *,
        me: Holder | None = None,
        beat: float = BEAT,
        lease: float = LEASE,
        clock: Callable[[], float] = time.monotonic,
        flock: Callable[[int, int], None] = fcntl.flock,
    ) -> None:
        self._path = path
        self._me = me
        self._beat = beat
        self._lease = lease
        self._clock = clock
        self._flock = flock
        self._holder: Holder | None = None
        self._looked_at = clock()
        self._quiet = 0.0
        self._refusals = 0
        self._refused_at = float("-inf")
        self.lives = False

    def try_take(self) -> SpoolLock | None:
        """The lock, or None where somebody holds it or may hold it. Raises SpoolError."""
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(self._path, error) from error
        taken = False
        try:
            taken = self._take(handle)
            me = self._me or this_process()
            return SpoolLock(self._path, handle, me, self._beat) if taken else None
        except OSError as error:
            taken = False
            raise _unusable(self._path, error) from error
        except SpoolError:
            taken = False
            raise
        finally:
            if not taken:
                os.close(handle)

    def busy(self) -> SpoolBusy:
        """What to say where the lock was not to be had."""
        who = self._holder.words() if self._holder else "it has not said where"
        where = f"spool {self._path.parent}"
        if self.lives or self._holder is None:
            return SpoolBusy(
                f"a gateway already runs here ({who})",
                where=where,
                remedy="stop that one first, start this one with --standby, or name another spool",
            )
        return SpoolBusy(
            f"a gateway may still run here ({who})",
            where=where,
            remedy="'hpcrunner gateway' watches it for a minute, and goes on if it shows no life",
        )

    def _take(self, handle: int) -> bool:
        found = _read(handle)
        # Lookers and contenders share; only a holder excludes. So a refusal is a holder's.
        refused = not self._locked(handle, fcntl.LOCK_SH)
        self._remember(found, refused)
        if refused or not self._vacant(found):
            return False
        if not self._locked(handle, fcntl.LOCK_EX):
            return False
        there, mine = self._path.stat(), os.fstat(handle)
        return _read(handle) == found and (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)

    def _vacant(self, holder: Holder | None) -> bool:
        return (
            holder is None
            or holder.surely_dead()
            or self._refusals >= _EFFECTIVE
            or self._quiet >= self._lease
        )

    def _remember(self, found: Holder | None, refused: bool) -> None:
        now = self._clock()
        gap, self._looked_at = now - self._looked_at, now
        self.lives = refused
        if found is None or not found.same_as(self._holder):
            self._quiet, self._refusals, self._refused_at = 0.0, 0, float("-inf")
        elif self._holder is not None and found.beat != self._holder.beat:
            self._quiet = 0.0
            self.lives = True
        else:
            self._quiet += min(gap, _LONGEST_GAP)
        self._holder = found
        if refused and found is not None and now - self._refused_at >= _APART:
            self._refusals += 1
            self._refused_at = now

    def _locked(self, handle: int, kind: int) -> bool:
        try:
            self._flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def wait_for_lock(
    contender: Contender,
    pause: Callable[[float], None],
    go_on: Callable[[], bool] = lambda: True,
    *,
    patience: float = 2.0,
    watch: bool = False,
    standby: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> SpoolLock | None:
    """The lock, or None once ``go_on`` says no.

    A holder that shows itself alive is waited for ``patience`` seconds, since one who only looks
    may stand in the way for an instant; one that may be dead also, or with ``watch`` until that
    is clear. ``standby`` waits for both without end. Raises SpoolBusy and SpoolError.
    """
    began, said, tick = clock(), False, 0.05
    while go_on():
        lock = contender.try_take()
        if lock is not None:
            return lock
        unclear = watch and not contender.lives
        if not standby and not unclear and clock() - began >= patience:
            raise contender.busy()
        if not said and clock() - began >= min(patience, 1.0) and (standby or unclear):
            doing = "standing by" if standby else "watching whether it lives"
            log.info("%s; %s", contender.busy().what, doing)
            said = True
        pause(tick)
        tick = min(1.0, tick * 1.5)
    return None


def holder_of(path: Path) -> str | None:
    """Who holds the lock, in words, or None where nobody does. Changes nothing."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        holder = _read(handle)
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return holder.words() if holder else "unknown holder"
    except OSError:
        return None
    finally:
        os.close(handle)
    if holder is None or holder.surely_dead():
        return None
    return f"{holder.words()}, if it still lives"


def _read(handle: int) -> Holder | None:
    return read_holder(os.pread(handle, _LONGEST_LINE, 0).decode(errors="replace"))


def _unusable(path: Path, error: OSError) -> SpoolError:
    return SpoolError(
        f"its lock cannot be taken ({error.strerror})",
        where=f"lock file {path}",
        remedy="check room, quota and permissions; the file system must know flock "
        "(Lustre: mounted with -o flock)",
    )
