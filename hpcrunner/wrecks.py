"""Folders that are made bit by bit, named after who makes them, so that others see who died."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from hpcrunner.nodefolders import remove_tree

_NAME = re.compile(r"(.+)\.(\d+)\.[^.]+")
_AGE = 86400.0  # seconds; nobody makes one for so long, on whatever node


def name_for(rest: str) -> str:
    """A name for what this process makes; ``rest`` has no dot and tells its folders apart."""
    return f"{os.uname().nodename}.{os.getpid()}.{rest}"


def clear_wrecks(parent: Path, now: float, but: str = "") -> None:
    """Remove what dead processes of this node have left, and what is a day old.

    ``now`` is by the file system's clock. The one named ``but`` stays. What cannot be removed is
    left. Raises OSError where there is no such parent.
    """
    for entry in list(os.scandir(parent)):
        match = _NAME.fullmatch(entry.name)
        if match is None or entry.name == but or not entry.is_dir(follow_symlinks=False):
            continue
        dead = match[1] == os.uname().nodename and not Path("/proc", match[2]).exists()
        with suppress(OSError):
            if dead or now - entry.stat(follow_symlinks=False).st_mtime > _AGE:
                remove_tree(Path(entry.path))
