"""All sites there are, for people who choose one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hpcrunner.sites.folders import Owner, files, site_folders
from hpcrunner.sites.layers import read_layers
from hpcrunner.sites.load import validated
from hpcrunner.sites.problems import SiteError


@dataclass(frozen=True, slots=True)
class Listed:
    """One name that ``--site`` takes. ``bases`` are the files it starts from, the next first.

    ``problems`` are its mistakes, for which it cannot be used.
    """

    name: str
    path: Path
    owner: Owner
    description: str = ""
    bases: tuple[Path, ...] = ()
    problems: tuple[str, ...] = ()


def listed_sites() -> list[Listed]:
    """The sites by name; of equal names the one that is used. A broken file hides no other."""
    found: dict[str, Listed] = {}
    for path, owner in files(site_folders()):
        if path.stem not in found:
            found[path.stem] = _listed(path, owner)
    return [found[name] for name in sorted(found)]


def _listed(path: Path, owner: Owner) -> Listed:
    try:
        merged = read_layers(path)
        site = validated(merged)
    except SiteError as error:
        return Listed(path.stem, path, owner, problems=error.problems)
    return Listed(path.stem, path, owner, site.description, merged.files[1:])
