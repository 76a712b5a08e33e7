"""Reading a file that holds a secret: only where nobody else can read it too."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hpcrunner.errors import HpcrunnerError

LARGEST = 1 << 20  # bytes; keys and credentials are far smaller


class SecretRefused(HpcrunnerError):
    """A secret file that is open to others, is not ours, or cannot be read."""

    exit_code = 77  # EX_NOPERM


def read_private(path: Path, largest: int = LARGEST) -> bytes:
    """The bytes of a regular file of ours, or of root's, that only its owner may use.

    Links are followed: what they lead to counts. Raises SecretRefused.
    """
    try:
        # Opened first and looked at then, so that both speak of the same file.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as file:  # noqa: PTH123
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise SecretRefused("is not a regular file", where=str(path))
            _refuse_open(path, found)
            text = file.read(largest + 1)
    except OSError as error:
        raise SecretRefused(f"cannot be read: {error.strerror}", where=str(path)) from error
    if len(text) > largest:
        raise SecretRefused(f"is larger than {largest} bytes", where=str(path))
    return text


def _refuse_open(path: Path, found: os.stat_result) -> None:
    if found.st_uid not in (os.geteuid(), 0):
        raise SecretRefused(
            "belongs to another user",
            where=str(path),
            remedy="make a copy that is yours alone (chmod 600)",
        )
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise SecretRefused(
            f"holds a secret, and others may use it (mode {mode:04o})",
            where=str(path),
            remedy=f"chmod 600 {path}",
        )
