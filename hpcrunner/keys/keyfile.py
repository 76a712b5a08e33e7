"""Looking at one key file; private ones are read with ``hpcrunner.privatefile``."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from hpcrunner.request.errors import KeyInvalid

MAX_BYTES = 64 * 1024

Stamp = tuple[int, int, int, int]  # times of writing and of any change (ns), size, inode
NO_STAMP: Stamp = (-1, -1, -1, -1)  # a file that is to be read again at the next look


@dataclass(frozen=True, slots=True)
class Found:
    """A file that is there: where, and what changes when it is written anew."""

    path: Path
    stamp: Stamp


def find(path: Path) -> Found | None:
    """The regular file at ``path``, links followed; None where there is none. Raises OSError."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    # The time of change tells of a mended mode or owner, too.
    stamp = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
    return Found(path, stamp)


def read_public(path: Path) -> bytes:
    """A file that anybody may read and not everybody may write. Raises KeyInvalid or OSError."""
    # Opened before it is judged, so that both are of one file; a pipe must not make us wait.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise KeyInvalid("not a file", remedy="put a key's file there")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise KeyInvalid(f"more than {MAX_BYTES} bytes", remedy="a key file holds one key")
    if mode & stat.S_IWOTH:
        raise KeyInvalid("everybody can write it", remedy="chmod o-w")
    return data
