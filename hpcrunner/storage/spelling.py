"""Names that a file system takes for one, though they are written in two ways."""

from __future__ import annotations

import os
import secrets
import unicodedata

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def folds_names(folder: int) -> bool:
    """Whether the file system of an open folder takes names for one that differ in case."""
    name = f".A{secrets.token_hex(8)}"
    try:
        os.close(os.open(name, _NEW_FILE, 0o600, dir_fd=folder))
    except OSError:
        return False  # it will show with the first member
    try:
        os.stat(name.swapcase(), dir_fd=folder)
    except OSError:
        return False
    else:
        return True
    finally:
        os.unlink(name, dir_fd=folder)


def folded(name: str) -> str:
    """A name as a file system that folds case and Unicode's forms may keep it."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFD", name).casefold())
