"""One builder at a time, also across the nodes of a shared file system.

flock(2) where the file system has it: the kernel lets go when the holder dies. Lustre without
``-o flock`` and some others refuse it; there a folder is the lock (mkdir is atomic everywhere),
which its holder touches while it lives. The lock only saves work: what it guards stays correct
if two hold it (see job/environment.py).
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NO_FLOCK = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
_TOUCH_EVERY = 20.0
STALE_AFTER = 120.0


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Try to take the lock of this path without waiting; gives whether it was taken.

    Raises OSError where neither kind of lock can be made.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise
            with folder_lock(path.with_name(path.name + ".d")) as taken:
                yield taken
        else:
            yield True
    finally:
        os.close(fd)  # lets go of the flock


@contextmanager
def folder_lock(path: Path) -> Iterator[bool]:
    """The lock as a folder; gives whether it was taken. One not touched for long is taken over."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if not _stale(path):
            yield False
            return
        # A rename has one winner among those who see the dead holder's folder; at worst the
        # winner's new folder is renamed too, and two hold the lock.
        grave = path.with_name(f"{path.name}.{os.uname().nodename}.{os.getpid()}")
        try:
            path.rename(grave)
            grave.rmdir()
            path.mkdir(mode=0o700)
        except OSError:
            yield False
            return
    done = threading.Event()
    threading.Thread(target=_keep_touching, args=(path, done), daemon=True).start()
    try:
        yield True
    finally:
        done.set()
        with suppress(OSError):
            path.rmdir()


def _stale(path: Path) -> bool:
    """Whether nobody touched it for long, by the file system's own clock."""
    probe = path.with_name(f"{path.name}.now.{os.uname().nodename}.{os.getpid()}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime > STALE_AFTER
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)


def _keep_touching(path: Path, done: threading.Event) -> None:
    while not done.wait(_TOUCH_EVERY):
        with suppress(OSError):
            os.utime(path)
