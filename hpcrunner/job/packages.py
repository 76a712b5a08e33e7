"""What an environment has installed, as ``pipdeptree --json`` would tell it.

It is read once, when the environment has been built, and kept in it: a hundred packages are a
hundred files on a shared file system.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.metadata import Distribution

FILE = "hpcrunner-packages.json"
LARGEST = 256 * 1024  # bytes: of more nothing is told, since the document is saved again and again
_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*\(?([^;)@]*)\)?(.*)")
_EXTRA = re.compile(r"\bextra\b")

Package = dict[str, Any]


def write_packages(venv: Path) -> None:
    """Write down what a virtual environment holds. Raises OSError."""
    from importlib.metadata import distributions

    places = [str(place) for place in sorted(venv.glob("lib/python*/site-packages"))]
    text = json.dumps(described(distributions(path=places)), separators=(",", ":"))
    if len(text) <= LARGEST:
        (venv / FILE).write_text(text, "ascii")


def read_packages(venv: Path) -> list[Package]:
    """What was written down; nothing where that cannot be read."""
    with suppress(OSError, ValueError, RecursionError):
        with (venv / FILE).open("rb") as file:
            found = json.loads(file.read(LARGEST + 1))
        if isinstance(found, list):
            return found
    return []


def described(installed: Iterable[Distribution]) -> list[Package]:
    """Each package with what it needs of the others, by name.

    Members are pipdeptree's: ``package`` and ``dependencies`` with ``key``, ``package_name`` and
    ``installed_version``; of a dependency also ``required_version``, null for any. What another
    platform would need is told where it is installed all the same; what an extra needs is not. A
    package whose metadata cannot be read is left out.
    """
    found: dict[str, tuple[dict[str, str], list[str]]] = {}
    for distribution in installed:
        try:
            name, version = distribution.metadata["Name"], distribution.version
            needs = distribution.requires or []
        except Exception:  # noqa: S112 - its metadata may be no UTF-8, cut off, or anything
            continue
        if name and version:
            known = {"key": _key(name), "package_name": name, "installed_version": version}
            found.setdefault(known["key"], (known, needs))
    return [
        {"package": known, "dependencies": list(_needs(lines, {k: v[0] for k, v in found.items()}))}
        for _, (known, lines) in sorted(found.items())
    ]


def _needs(lines: Iterable[str], found: dict[str, dict[str, str]]) -> Iterable[Package]:
    for line in lines:
        match = _REQUIREMENT.fullmatch(line.strip())
        known = found.get(_key(match[1])) if match else None
        if match and known and not _EXTRA.search(match[3]):
            yield {**known, "required_version": match[2].strip() or None}


def _key(name: str) -> str:
    """A project's name as the index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
