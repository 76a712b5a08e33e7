"""What lies at a path: an image file, the root folder of a sandbox, or neither."""

from __future__ import annotations

import hashlib
import os
from enum import Enum
from pathlib import Path

_SIF_MAGIC, _SIF_AT = b"SIF_MAGIC", 32
_SQUASHFS = b"hsqs"  # images of Singularity 2, which Singularity Hub still has
_ROOT_MARKS = (".singularity.d", "bin", "usr")
_LONGEST_LAUNCH_LINE = 2048


class Found(Enum):
    """What was found."""

    IMAGE = "image"
    SANDBOX = "sandbox"
    OTHER = "other"
    NOTHING = "nothing"


def look_at(path: Path) -> Found:
    """What lies there, by its content. Raises OSError where it cannot be read."""
    if path.is_dir():
        marks = any(os.path.lexists(path / name) for name in _ROOT_MARKS)
        return Found.SANDBOX if marks else Found.OTHER
    if not path.is_file():
        return Found.OTHER if path.exists() else Found.NOTHING
    with path.open("rb") as file:
        head = file.read(_LONGEST_LAUNCH_LINE + len(_SQUASHFS))
    if head[_SIF_AT:].startswith(_SIF_MAGIC) or head.startswith(_SQUASHFS):
        return Found.IMAGE
    if head.startswith(b"#!"):
        after = head.find(b"\n") + 1
        if after and head[after:].startswith(_SQUASHFS):
            return Found.IMAGE
    return Found.OTHER


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes. Raises OSError."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()
