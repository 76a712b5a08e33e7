"""A folder of code as the archive that travels with an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from hpcrunner.client.ignore import IGNORE_FILE, ignored
from hpcrunner.errors import HpcrunnerError
from hpcrunner.storage.pack import Packed, pack


class WorkspaceError(HpcrunnerError):
    """The folder cannot be packed."""

    exit_code = 66  # EX_NOINPUT


def pack_workspace(folder: Path, into: BinaryIO) -> Packed:
    """Write the folder as ``pack`` does, without what ``.studioml_ignore`` names.

    ``.git``, ``.venv`` and ``__pycache__`` never travel. Raises WorkspaceError where the folder
    or a file of it cannot be read, and for links that lead out of it: the payload would miss
    them, and better now than after a night in the queue.
    """
    try:
        packed = pack(folder, into, leave_out=ignored(_own_patterns(folder)))
    except OSError as error:
        raise WorkspaceError(
            f"cannot be packed ({error.strerror})",
            where=str(error.filename or folder),
            remedy="name the folder of your code with --folder",
        ) from None
    if packed.left_out:
        more = len(packed.left_out) - 1
        others = f" (and {more} more)" if more else ""
        raise WorkspaceError(
            f"{packed.left_out[0]}{others}",
            where=str(folder),
            remedy=f"replace it by what it stands for, or name it in {IGNORE_FILE}",
        )
    return packed


def _own_patterns(folder: Path) -> str:
    try:
        return (folder / IGNORE_FILE).read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ""
