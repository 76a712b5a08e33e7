"""A folder of code as the archive that travels with an experiment."""

from __future__ import annotations

import fnmatch
import hashlib
import tarfile
from pathlib import Path
from typing import IO

from hpcrunner.errors import HpcrunnerError

IGNORE_FILE = ".studioml_ignore"
_ALWAYS_IGNORED = (".git", "__pycache__", ".venv", "*.pyc", IGNORE_FILE)


_BLOCK = 1 << 20


class WorkspaceError(HpcrunnerError):
    """The folder cannot be packed."""

    exit_code = 66  # EX_NOINPUT


def pack_workspace(folder: Path, into: IO[bytes]) -> str:
    """Write the folder's entries as a PAX tar (names without ``./``); returns its SHA-256.

    What the patterns of ``.studioml_ignore`` name (shell patterns of names or of paths below
    the folder, one a line, ``#`` for comments) stays at home, as do ``.git``, ``.venv`` and
    caches. Modes and contents count for the digest, times and owners do not, so that an
    unchanged folder is stored once. Raises WorkspaceError.
    """
    try:
        patterns = (*_ALWAYS_IGNORED, *_own_patterns(folder))
        with tarfile.open(fileobj=into, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path in sorted(folder.iterdir()):
                archive.add(path, path.name, filter=lambda m: _kept(m, patterns))
        into.seek(0)
        return _sha256(into)
    except OSError as error:
        raise WorkspaceError(
            f"cannot be packed ({error.strerror})",
            where=str(error.filename or folder),
            remedy="name the folder of your code with --folder",
        ) from error


def _sha256(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _own_patterns(folder: Path) -> list[str]:
    try:
        lines = (folder / IGNORE_FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [line.strip().rstrip("/") for line in lines if line.strip() and line[0] != "#"]


def _kept(member: tarfile.TarInfo, patterns: tuple[str, ...]) -> tarfile.TarInfo | None:
    name = member.name.rpartition("/")[2]
    if any(fnmatch.fnmatch(name, p) or fnmatch.fnmatch(member.name, p) for p in patterns):
        return None
    if not (member.isreg() or member.isdir() or member.issym()):
        return None
    member.mtime = 0
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
