"""Folders that crashed attempts have left on a node, removed by a later job of the same user.

An attempt holds a lock on its folder for as long as it lives, and the kernel lets go when it
dies (flock(2)). Where a folder names this node as its owner's and nobody holds the lock, the
owner is dead. A folder of another node, or on a file system that does not know such locks, is
left alone: there nobody can tell.
"""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import suppress
from pathlib import Path

from hpcrunner.job.workspace import OWNER
from hpcrunner.nodefolders import remove_tree


def start_sweep(home: Path) -> None:
    """Remove beside ``home`` what dead attempts have left, on a thread that holds up nothing."""
    threading.Thread(target=sweep, args=(home,), daemon=True).start()


def sweep(home: Path) -> list[str]:
    """Remove what dead attempts have left beside ``home``; returns the names."""
    removed = []
    with suppress(OSError):
        for name in os.listdir(home.parent):
            with suppress(OSError):  # somebody else removes it, or it cannot be told or removed
                if name != home.name and _remove_dead(home.parent / name):
                    removed.append(name)
    return removed


def _remove_dead(folder: Path) -> bool:
    if (folder / OWNER).read_text("utf-8", "replace") != os.uname().nodename:
        return False
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in os.listdir(folder):
            if name != OWNER:  # last: a sweep that is cut off is gone on with by the next
                remove_tree(folder / name)
        (folder / OWNER).unlink()
        folder.rmdir()
    finally:
        os.close(fd)
    return True
