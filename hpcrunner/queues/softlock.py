"""The StudioML client's lock on a directory queue: filelock's SoftFileLock, spoken from here.

The lock is the existence of ``lock.lock`` in the queue's folder, made with O_EXCL. A holder
writes its pid and host as two lines, which lets filelock see that a dead one is gone; filelock
before 3.22 leaves the file empty.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

LOCK_NAME = "lock.lock"
STALE_SECONDS = 60.0
_RECORD_BYTES = 1024
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK)


class Hold(Enum):
    """What came of asking for the lock."""

    HELD = "HELD"  # ours until the context is left
    BUSY = "BUSY"  # somebody else's
    STALE = "STALE"  # somebody's who is most likely dead; passed by, not removed


class QueueLock:
    """The lock of one queue folder.

    ``scratch`` is a private folder on the same file system, made when needed. ``clock`` is
    epoch seconds, ``monotonic`` a steady clock.
    """

    def __init__(
        self,
        folder: Path,
        scratch: Path,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = folder / LOCK_NAME
        self._scratch = scratch
        self._clock = clock
        self._monotonic = monotonic
        self._seen: tuple[tuple[int, ...], float] | None = None

    @contextmanager
    def tried(self) -> Iterator[Hold]:
        """Ask for the lock without waiting; left again with the context. Raises OSError."""
        hold = self._try()
        try:
            yield hold
        finally:
            if hold is Hold.HELD:
                with suppress(FileNotFoundError):  # the client may delete the whole queue
                    self.path.unlink()

    def _try(self) -> Hold:
        for _ in range(2):
            try:
                self._make()
            except FileExistsError:
                dead = self._left_by_a_dead_process()
                if dead is None:
                    return self._judge()
                self._break(dead)
                continue
            self._seen = None
            return Hold.HELD
        return Hold.BUSY

    def _make(self) -> None:
        """Make the lock, its record in it from the first moment.

        By a hard link: a process killed between making a lock and writing into it would leave
        one that nobody can tell from a living client's.
        """
        text = f"{os.getpid()}\n{socket.gethostname()}\n".encode()
        self._scratch.mkdir(mode=0o700, exist_ok=True)
        record = self._scratch / f"{LOCK_NAME}.record"
        # Removed, not overwritten: it may be the other name of a lock left by a crash.
        record.unlink(missing_ok=True)
        _write_new(record, text)
        try:
            os.link(record, self.path)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            _write_new(self.path, text)
        finally:
            record.unlink(missing_ok=True)

    def _judge(self) -> Hold:
        try:
            status = self.path.stat(follow_symlinks=False)
        except FileNotFoundError:
            return Hold.BUSY  # let go of this moment; the next round is soon
        mark = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        now = self._monotonic()
        if self._seen is None or self._seen[0] != mark:
            self._seen = (mark, now)
        # The file server's clock may differ from ours: what we watched ourselves counts too.
        age = max(now - self._seen[1], self._clock() - status.st_mtime)
        return Hold.STALE if age > STALE_SECONDS else Hold.BUSY

    def _left_by_a_dead_process(self) -> int | None:
        """The lock's inode where its record names a process of this host that is no more.

        An old client waits for ever on such a lock, so one left by a killed gateway must go.
        """
        try:
            with self.path.open("rb") as stream:
                lines = stream.read(_RECORD_BYTES).decode("ascii", "replace").split("\n")
                inode = os.fstat(stream.fileno()).st_ino
        except OSError:
            return None
        if len(lines) < 3 or not lines[0].isdecimal() or lines[1] != socket.gethostname():
            return None
        try:
            os.kill(int(lines[0]), 0)
        except ProcessLookupError:
            return inode
        except (OSError, OverflowError):
            return None
        return None

    def _break(self, inode: int) -> None:
        aside = self._scratch / f"{LOCK_NAME}.broken"
        with suppress(FileNotFoundError):
            self.path.rename(aside)
            if aside.stat(follow_symlinks=False).st_ino != inode:
                # Somebody broke it before us and a living one holds it: that one goes back.
                with suppress(OSError):
                    os.link(aside, self.path)
            aside.unlink()


def _write_new(path: Path, text: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    try:
        os.write(handle, text)
    finally:
        os.close(handle)
