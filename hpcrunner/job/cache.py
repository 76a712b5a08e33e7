"""What lies unused in the site's cache for long is removed, by a job that runs beside it.

Beside an environment (environment.py)::

    environments/<key>/used      touched before a job looks for the environment, and every hour
                                 while it runs; locked (flock, shared) for as long as it lives
    environments/<key>/*.gone    being removed
    environments/swept           touched by whoever looks through all of them, once a day

A job marks first and looks then; who removes takes the environment out of sight first and looks
at the mark then. So of a job that starts at that very instant, one of the two sees the other.
Ages are counted by the file system's own clock. The folder of a key stays, since another job may
be about to lock in it.

uv's downloads are left alone: only uv itself can tell which of them are in use (``uv cache
prune``).
"""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from contextlib import suppress
from pathlib import Path

from hpcrunner.job.lock import try_lock
from hpcrunner.job.workspace import remove_tree

USED = "used"
_CURRENT = "current"
_GONE = ".gone"
_MARK_EVERY = 3600.0
_SWEEP_EVERY = 86400.0
_LEAST_AGE = 86400.0  # several marks may be late
_DOWNLOADS = "pip"


def mark_used(environment: Path) -> None:
    """Keep an environment's folder from being removed for as long as this process lives.

    To be called before the environment is looked for. Raises OSError.
    """
    fd = os.open(environment / USED, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _mark(fd)
    threading.Thread(target=_keep_marking, args=(fd,), daemon=True).start()


def start_sweep(cache: Path, age: float | None) -> None:
    """Remove what is unused for ``age`` seconds (None: nothing), on a thread that holds up
    nothing, unless some job has done so today.
    """
    if age is not None:
        threading.Thread(target=_sweep_daily, args=(cache, age), daemon=True).start()


def sweep(cache: Path, age: float) -> list[str]:
    """Remove what nobody has used for ``age`` seconds, a day at least; returns the keys.

    What cannot be removed is left. Raises OSError where there is no such cache.
    """
    environments = cache / "environments"
    before = _now(environments) - max(age, _LEAST_AGE)
    removed = []
    for entry in list(os.scandir(environments)):
        if entry.is_dir(follow_symlinks=False):
            with suppress(OSError):  # of another job's making at this moment, or not removable
                if _remove_unused(Path(entry.path), before):
                    removed.append(entry.name)
    _remove_downloads(cache / _DOWNLOADS, before)
    return removed


def _sweep_daily(cache: Path, age: float) -> None:
    with suppress(OSError):
        swept = cache / "environments" / "swept"
        now = _now(swept.parent)
        with suppress(FileNotFoundError):
            if now - swept.stat().st_mtime < _SWEEP_EVERY:
                return
        swept.touch()
        sweep(cache, age)


def _remove_unused(folder: Path, before: float) -> bool:
    """Take an environment that nobody has used since out of sight, then remove it."""
    removed = False
    if _used_at(folder) < before:
        with try_lock(folder / "lock") as taken:
            if taken and not _in_use(folder):  # never hidden from one that uses it
                removed = _take_away(folder, before)
    for entry in list(os.scandir(folder)):  # also what a job that ended half way left
        if entry.name.endswith(_GONE) and entry.is_dir(follow_symlinks=False):
            remove_tree(Path(entry.path))
    return removed


def _take_away(folder: Path, before: float) -> bool:
    current, hidden = folder / _CURRENT, folder / f"{_CURRENT}.hidden"
    with suppress(FileNotFoundError):
        current.rename(hidden)
    if _written_at(folder / USED, 0.0) >= before or _in_use(folder):
        hidden.rename(current)  # a job came between
        return False
    found = False
    for entry in list(os.scandir(folder)):
        ours = entry.name.startswith("lock") or entry.name.endswith(_GONE)
        if entry.is_dir(follow_symlinks=False) and not ours:
            Path(entry.path).rename(folder / f"{entry.name}{_GONE}")
            found = True
    hidden.unlink(missing_ok=True)
    return found


def _used_at(folder: Path) -> float:
    """The last mark; of an environment from before there were marks, when it was built."""
    built = _written_at(folder / _CURRENT, folder.stat().st_mtime)
    return _written_at(folder / USED, built)


def _written_at(path: Path, missing: float) -> float:
    # Opened, since NFS answers a stat from its memory and an open from the server.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return missing
    try:
        return os.fstat(fd).st_mtime
    finally:
        os.close(fd)


def _in_use(folder: Path) -> bool:
    """Whether a job holds its lock, which also a job that is stopped does."""
    try:
        fd = os.open(folder / USED, os.O_RDWR | os.O_CLOEXEC)
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


def _remove_downloads(folder: Path, before: float) -> None:
    """pip writes each download whole, under a name of its own, and does without any of them."""
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                file = Path(path, name)
                found = file.lstat()
                last = max(found.st_mtime, found.st_atime)
                if stat.S_ISREG(found.st_mode) and last < before:
                    file.unlink()


def _now(folder: Path) -> float:
    """The time by the clock of the file system."""
    probe = folder / f".now.{os.uname().nodename}.{os.getpid()}"
    try:
        probe.touch(mode=0o600)
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _keep_marking(fd: int) -> None:
    never = threading.Event()
    while not never.wait(_MARK_EVERY):
        with suppress(OSError):
            _mark(fd)


def _mark(fd: int) -> None:
    os.utime(fd)
    with suppress(OSError):  # somebody looks at it, or no such locks here: the time will do
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
