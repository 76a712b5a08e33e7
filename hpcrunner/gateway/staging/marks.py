"""Which version of a file the store has: what a file was when it was fetched or sent.

A mark that is lost makes the same bytes be sent once more, which does no harm.
"""

from __future__ import annotations

import json
import os
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Version:
    """A file as ``stat`` tells it from what it was before."""

    inode: int
    mtime_ns: int
    size: int


@dataclass(frozen=True, slots=True)
class Mark:
    """A version that the store has, and its content's SHA-256 (hex)."""

    version: Version
    sha256: str


def version_of(status: os.stat_result) -> Version:
    """The version of a file that was looked at."""
    return Version(status.st_ino, status.st_mtime_ns, status.st_size)


def read_mark(path: Path) -> Mark | None:
    """The mark at a path; None where there is none to be read."""
    try:
        raw = json.loads(path.read_text("ascii"))
        return Mark(Version(**raw["version"]), str(raw["sha256"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_mark(path: Path, mark: Mark) -> None:
    """Write a mark, whole or not at all. Raises OSError."""
    unfinished = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        unfinished.write_text(json.dumps(asdict(mark)), "ascii")
        unfinished.rename(path)
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
