"""Marks by which those who tidy a cache see what is in use, also on another node.

A mark is an empty file: touched before its user looks for what it stands for, and every hour while
it runs; locked (flock, shared) for as long as that process lives. Who removes something takes it
out of sight first and looks at the mark then, so that of a user who starts at that very instant
one of the two sees the other. Times are those of the file system's own clock.
"""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import suppress
from pathlib import Path

MARK_EVERY = 3600.0


def mark_used(mark: Path) -> None:
    """Say that this process uses it, for as long as it lives. Raises OSError."""
    fd = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _mark(fd)
    threading.Thread(target=_keep_marking, args=(fd,), daemon=True).start()


def touch_mark(mark: Path) -> None:
    """Say that somebody used it, or will soon. Raises OSError."""
    fd = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.utime(fd)
    finally:
        os.close(fd)


def marked_at(mark: Path, missing: float) -> float:
    """When it was last said, or ``missing`` where there is no mark."""
    # Opened, since NFS answers a stat from its memory and an open from the server.
    try:
        fd = os.open(mark, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return missing
    try:
        return os.fstat(fd).st_mtime
    finally:
        os.close(fd)


def in_use(mark: Path) -> bool:
    """Whether a process holds its lock, which also one that is stopped does."""
    try:
        fd = os.open(mark, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # no such locks here
    finally:
        os.close(fd)
    return False


def clock_of(folder: Path) -> float:
    """The time by the clock of the file system. Raises OSError."""
    thread = threading.get_ident()
    probe = folder / f".now.{os.uname().nodename}.{os.getpid()}.{thread}"
    try:
        probe.touch(mode=0o600)
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _keep_marking(fd: int) -> None:
    never = threading.Event()
    while not never.wait(MARK_EVERY):
        with suppress(OSError):
            _mark(fd)


def _mark(fd: int) -> None:
    os.utime(fd)
    with suppress(OSError):  # somebody looks at it, or no such locks here: the time will do
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
