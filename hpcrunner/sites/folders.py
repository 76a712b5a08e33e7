"""Where site files lie, and which file a name means.

The search order: the user's own folder, the folders of the variable ``HPCRUNNER_SITES``, the
machine's ``/etc/hpcrunner/sites``, and what comes with hpcrunner. The first file of a name wins.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hpcrunner.data import data_folder
from hpcrunner.sites.problems import SiteError

VARIABLE = "HPCRUNNER_SITES"
SYSTEM = Path("/etc/hpcrunner/sites")
_SUFFIX = ".yaml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@-]*")

Owner = Literal["own", "institution", "shipped"]


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of site files, and whose they are."""

    path: Path
    owner: Owner


class UnknownSite(SiteError):
    """A name that no folder has a file for. ``what`` is the line without the file's place."""


def site_folders() -> tuple[Folder, ...]:
    """Where names are looked for, in that order. Raises SiteError for a bad variable."""
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    found = [Folder(Path(config) / "hpcrunner" / "sites", "own")]
    for text in os.environ.get(VARIABLE, "").split(os.pathsep):
        path = Path(os.path.expanduser(text))  # noqa: PTH111 - an unknown ~user stays as it is
        if text and not path.is_absolute():
            raise SiteError([f"{VARIABLE}: {text!r} is not an absolute path"])
        if text:
            found.append(Folder(path, "institution"))
    found += [Folder(SYSTEM, "institution"), Folder(data_folder("site-configs"), "shipped")]
    # A folder that is named twice counts where it stands first.
    first: dict[Path, Folder] = {}
    for folder in found:
        first.setdefault(folder.path, folder)
    return tuple(first.values())


def is_path(text: str) -> bool:
    """Whether a text names a file, and not a site: one with a slash or the ending of YAML."""
    return "/" in text or text.endswith((_SUFFIX, ".yml"))


def find(name: str, folders: Sequence[Folder]) -> Path:
    """The first file of a name in these folders. Raises UnknownSite."""
    if _NAME.fullmatch(name):
        for folder in folders:
            path = folder.path / f"{name}{_SUFFIX}"
            if path.is_file():
                return path
    known = sorted({path.stem for path, _ in files(folders)})
    near = difflib.get_close_matches(name, known, n=1)
    hint = f", nearest: {near[0]}" if near else ""
    looked = ", ".join(str(folder.path) for folder in folders)
    allowed = ", ".join([*known, "or a path to a file"])
    raise UnknownSite([f"no site {name!r} in {looked}{hint}; allowed: {allowed}"])


def files(folders: Sequence[Folder]) -> Iterator[tuple[Path, Owner]]:
    """All site files in the order of the folders, also those that one before them hides."""
    for folder in folders:
        for path in sorted(folder.path.glob(f"*{_SUFFIX}")):
            if _NAME.fullmatch(path.stem):
                yield path, folder.owner


def behind(path: Path, name: str) -> tuple[Folder, ...]:
    """Where the base ``name`` of the site file at ``path`` is looked for.

    From the folder of that file on, so that a shipped site never starts from your own file that
    happens to have the base's name; where it extends its own name, from the next folder on. A
    file elsewhere may start from anything.
    """
    folders = site_folders()
    here = path.parent.resolve()
    for index, folder in enumerate(folders):
        if folder.path.resolve() == here:
            return folders[index + 1 if name == path.stem else index :]
    return folders
