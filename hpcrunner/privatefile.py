"""Reading a file that holds a secret: only where nobody else can read it too."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from hpcrunner.errors import HpcrunnerError

LARGEST = 1 << 20  # bytes; keys and credentials are far smaller
_CREDENTIALS = "CREDENTIALS_DIRECTORY"  # systemd's folder for LoadCredential=


class SecretRefused(HpcrunnerError):
    """A secret file that is open to others, is not ours, or cannot be read."""

    exit_code = 77  # EX_NOPERM


def read_private(
    path: Path, largest: int = LARGEST, environ: Mapping[str, str] = os.environ
) -> bytes:
    """The bytes of a regular file of ours, or of root's, that only its owner may use.

    Links are followed: what they lead to counts. A credential of systemd is opened to its
    service by an ACL, which shows as the group's right to read: that is let pass, in its folder
    and for files of root. Raises SecretRefused.
    """
    try:
        # Opened first and looked at then, so that both speak of the same file.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as file:  # noqa: PTH123
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise SecretRefused("is not a regular file", where=str(path))
            _refuse_open(path, found, environ.get(_CREDENTIALS, ""))
            text = file.read(largest + 1)
    except OSError as error:
        raise SecretRefused(f"cannot be read: {error.strerror}", where=str(path)) from error
    if len(text) > largest:
        raise SecretRefused(f"is larger than {largest} bytes", where=str(path))
    return text


def _refuse_open(path: Path, found: os.stat_result, credentials: str) -> None:
    if found.st_uid not in (os.geteuid(), 0):
        raise SecretRefused(
            "belongs to another user",
            where=str(path),
            remedy="make a copy that is yours alone (chmod 600)",
        )
    mode = stat.S_IMODE(found.st_mode)
    others = stat.S_IRWXG | stat.S_IRWXO
    if found.st_uid == 0 and credentials and Path(credentials) in path.parents:
        others &= ~stat.S_IRGRP
    if mode & others:
        raise SecretRefused(
            f"holds a secret, and others may use it (mode {mode:04o})",
            where=str(path),
            remedy=f"chmod 600 {path}",
        )
