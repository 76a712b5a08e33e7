"""Removing a folder with all it holds, in small pieces, and never through a link."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def removal(path: Path) -> Iterator[int]:
    """Remove a folder; yields the bytes freed after each entry, and may be left off at any.

    What links lead to stays, and a path that is itself a link is refused, as is whatever else
    is no folder. One that is missing is fine. Raises OSError, RecursionError.
    """
    try:
        for _, folders, files, at in os.fwalk(
            path, topdown=False, onerror=_raise, follow_symlinks=False
        ):
            for name in files:
                size = _size(name, at)
                os.unlink(name, dir_fd=at)
                yield size
            for name in folders:
                try:
                    os.rmdir(name, dir_fd=at)
                except NotADirectoryError:  # a link to a folder
                    os.unlink(name, dir_fd=at)
                yield 0
        path.rmdir()
    except FileNotFoundError:
        if os.path.lexists(path):
            raise


def size_of(path: Path) -> int:
    """The bytes of a folder's files; what cannot be seen counts as nothing."""
    total = 0
    try:
        for _, _, files, at in os.fwalk(path, follow_symlinks=False):
            total += sum(_size(name, at) for name in files)
    except (FileNotFoundError, RecursionError):
        pass
    return total


def changed_at(path: Path) -> float:
    """When (epoch seconds) anything in a folder was last made or written. Raises OSError."""
    newest = path.lstat().st_mtime
    for _, folders, files, at in os.fwalk(path, onerror=_raise, follow_symlinks=False):
        for name in (*folders, *files):
            newest = max(newest, os.stat(name, dir_fd=at, follow_symlinks=False).st_mtime)
    return newest


def _size(name: str, at: int) -> int:
    try:
        return os.stat(name, dir_fd=at, follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0


def _raise(error: OSError) -> None:
    raise error
