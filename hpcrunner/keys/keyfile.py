"""Reading one key file: bounded, and only where nobody else could have read or written it."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hpcrunner.request.errors import KeyInvalid

MAX_BYTES = 64 * 1024
CREDENTIALS = "CREDENTIALS_DIRECTORY"  # systemd's folder for LoadCredential=

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
    data, status = _read(path)
    if status.st_mode & stat.S_IWOTH:
        raise KeyInvalid("everybody can write it", where=str(path), remedy="chmod o-w")
    return data


def read_private(path: Path, environ: Mapping[str, str] = os.environ) -> bytes:
    """A file that only its owner, who is us or root, may read. Raises KeyInvalid or OSError.

    systemd opens its credentials to the service's user with an ACL, whose mask shows as the
    group's right to read: that is allowed in its folder, for files of root.
    """
    data, status = _read(path)
    if status.st_uid not in (0, os.geteuid()):
        raise KeyInvalid(
            f"belongs to user {status.st_uid}", where=str(path), remedy="chown it to yourself"
        )
    others = stat.S_IRWXG | stat.S_IRWXO
    if status.st_uid == 0 and _is_credential(path, environ):
        others &= ~stat.S_IRGRP
    if status.st_mode & others:
        raise KeyInvalid(
            f"others can use it (mode {stat.S_IMODE(status.st_mode):04o})",
            where=str(path),
            remedy="chmod 600",
        )
    return data


def _read(path: Path) -> tuple[bytes, os.stat_result]:
    # Opened before it is judged, so that both are of one file; a pipe must not make us wait.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise KeyInvalid("not a file", where=str(path), remedy="put a key's file there")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise KeyInvalid(
            f"more than {MAX_BYTES} bytes", where=str(path), remedy="a key file holds one key"
        )
    return data, status


def _is_credential(path: Path, environ: Mapping[str, str]) -> bool:
    folder = environ.get(CREDENTIALS, "")
    return bool(folder) and path.is_relative_to(folder)
