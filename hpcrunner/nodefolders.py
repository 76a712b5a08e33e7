"""Folders that a site names for its nodes: found by their variables, private, and removed whole."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

from hpcrunner.errors import HpcrunnerError

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


class NodeFolderError(HpcrunnerError):
    """A folder that the site names cannot be used on this node."""

    exit_code = 73  # EX_CANTCREAT


def expand(text: str, environ: Mapping[str, str], *, what: str) -> Path:
    """Replace ``$NAME`` and ``${NAME}`` in a site's folder; the result must be absolute.

    Raises NodeFolderError for a variable that the node does not set.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not environ.get(name):
            raise NodeFolderError(
                f"${name} is not set on this node",
                where=f"{what} {text}",
                remedy=f"name a folder that exists on the nodes as '{what}' in the site file",
            )
        return environ[name]

    path = Path(_VARIABLE.sub(value, text))
    if not path.is_absolute():
        raise NodeFolderError(
            "is not an absolute path",
            where=f"{what} {text}",
            remedy=f"write '{what}' in the site file from / on",
        )
    return path


def private_folder(path: Path) -> Path:
    """Make a folder for us alone, or take it where it already is one; returns it.

    Its parent may be open to everybody (``/tmp``), so somebody else may have put a link or a
    folder of theirs there first: that raises NodeFolderError. Raises OSError.
    """
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise NodeFolderError(
                "is not a folder of this user",
                where=str(path),
                remedy="somebody else made it; ask for its removal or name another folder",
            ) from None
        if stat.S_IMODE(found.st_mode) & 0o077:
            path.chmod(0o700)
    return path


def remove_tree(path: Path) -> None:
    """Remove a folder with all it holds, never following a link. Raises OSError.

    Payloads leave folders without write permission behind; those are opened first.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    try:
        shutil.rmtree(path)
    except OSError:
        path.chmod(0o700)
        for folder, names, _ in os.walk(path):  # opened before os.walk steps into them
            for inner in (Path(folder, name) for name in names):
                if not inner.is_symlink():
                    inner.chmod(0o700)
        shutil.rmtree(path)
