"""What lies unused in the site's cache for long is removed, by a job that runs beside it.

Beside an environment (environment.py)::

    environments/<key>/used      a job's mark: see usemark.py
    environments/<key>/*.gone    being removed
    environments/swept           touched by whoever looks through all of them, once a day

The folder of a key stays, since another job may be about to lock in it.

uv's downloads are left alone: only uv itself can tell which of them are in use (``uv cache
prune``).
"""

from __future__ import annotations

import os
import stat
import threading
from contextlib import suppress
from pathlib import Path

from hpcrunner.nodefolders import remove_tree
from hpcrunner.sharedlock import try_lock
from hpcrunner.usemark import clock_of, in_use, marked_at

USED = "used"
_CURRENT = "current"
_GONE = ".gone"
_SWEEP_EVERY = 86400.0
_LEAST_AGE = 86400.0  # several marks may be late
_DOWNLOADS = "pip"


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
    before = clock_of(environments) - max(age, _LEAST_AGE)
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
        now = clock_of(swept.parent)
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
            if taken and not in_use(folder / USED):  # never hidden from one that uses it
                removed = _take_away(folder, before)
    for entry in list(os.scandir(folder)):  # also what a job that ended half way left
        if entry.name.endswith(_GONE) and entry.is_dir(follow_symlinks=False):
            remove_tree(Path(entry.path))
    return removed


def _take_away(folder: Path, before: float) -> bool:
    current, hidden = folder / _CURRENT, folder / f"{_CURRENT}.hidden"
    with suppress(FileNotFoundError):
        current.rename(hidden)
    if marked_at(folder / USED, 0.0) >= before or in_use(folder / USED):
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
    built = marked_at(folder / _CURRENT, folder.stat().st_mtime)
    return marked_at(folder / USED, built)


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
