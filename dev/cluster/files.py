"""Making folders and writing files with the right owner and mode."""

from __future__ import annotations

import shutil
from pathlib import Path


def folder(path: Path, owner: str = "root", mode: int = 0o755) -> Path:
    """Make a folder, or mend the owner and mode of one that is there."""
    path.mkdir(exist_ok=True)
    shutil.chown(path, owner)
    path.chmod(mode)
    return path


def write(path: Path, text: str, owner: str = "root", mode: int = 0o644) -> bool:
    """Replace a file at once; says whether its text changed.

    The new file gets its owner and mode before its text, so a secret is never readable.
    """
    same = path.exists() and path.read_text() == text
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(0o600, exist_ok=False)
    shutil.chown(new, owner)
    new.chmod(mode)
    new.write_text(text)
    new.replace(path)
    return not same
