"""Which of a request's requirement lines can be installed on a node. Pure.

The client sends its own ``pip freeze``, so lines name things that exist on its machine only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.reasons import Reason

_EDITABLE = re.compile(r"(?:-e|--editable)[ =]\s*(.*)")
_LOCAL = re.compile(r"(?:git\+)?file:|[/~]|\.{1,2}(?:/|$)", re.IGNORECASE)
_DIRECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\s*(?:\[[^\]]*\])?\s*@\s*(.*)")
_PINNED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^\]]*\])?\s*={2,3}\s*([^\s;,*]+)")
_SOURCE = re.compile(_DIRECT.pattern + r"|(?:git|hg|svn|bzr)\+.*|https?:.*")
# Debian's pip lists a package that no index has.
_NO_SUCH_PACKAGE = re.compile(r"pkg[-_.]resources\b", re.IGNORECASE)


class EnvironmentFailed(HpcrunnerError):
    """The Python environment that the request asks for cannot be had."""

    exit_code = 78  # EX_CONFIG
    reason = Reason.ENVIRONMENT_FAILED


@dataclass(frozen=True, slots=True)
class Requirements:
    """Lines for a requirements file, in the request's order, and what was left out and why.

    ``frozen`` is True where each line names one exact version or source: the list of a whole
    environment, as ``pip freeze`` writes it.
    """

    lines: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    frozen: bool

    @property
    def canonical(self) -> tuple[str, ...]:
        """The lines as they enter the environment's key: order and spelling do not count."""
        return tuple(sorted(map(_canonical, self.lines)))


def groom(entries: Iterable[str]) -> Requirements:
    """Sort a request's requirement entries into lines to install and lines to leave out.

    Raises EnvironmentFailed for an entry that would be more than one requirement.
    """
    lines, left_out = [], []
    for entry in entries:
        line = entry.strip()
        if not all(c.isprintable() for c in line) or line.endswith("\\"):
            raise EnvironmentFailed(
                "holds a line break or a control character",
                where=f"requirement {line!r}",
                remedy="give one requirement an entry",
            )
        editable, direct = _EDITABLE.fullmatch(line), _DIRECT.fullmatch(line)
        source = editable[1] if editable else direct[1] if direct else line
        if not line or line.startswith("#"):
            continue
        if _NO_SUCH_PACKAGE.match(line):
            left_out.append((line, "no index has this package"))
        elif _LOCAL.match(source):
            left_out.append((line, "it exists on the client's machine only"))
        elif line.startswith("-") and not editable:
            raise EnvironmentFailed(
                "is an option of the installer, not a requirement",
                where=f"requirement {line!r}",
                remedy="set it in the environment (PIP_… or UV_…) of the node",
            )
        else:
            lines.append(_plain(editable[1]) if editable else line)
    frozen = all(_PINNED.match(line) or _SOURCE.match(line) for line in lines)
    return Requirements(tuple(lines), tuple(left_out), frozen)


def pinned_version(entries: Iterable[str], name: str) -> str | None:
    """The version that ``name==version`` among the entries pins, or None."""
    for entry in entries:
        match = _PINNED.match(entry.strip())
        if match and _project(match[1]) == _project(name):
            return match[3]
    return None


def _plain(source: str) -> str:
    """The same source without ``-e``: nobody edits it on a node, and uv refuses it from git."""
    url, _, fragment = source.strip().partition("#")
    words = dict(word.partition("=")[::2] for word in fragment.split("&"))
    name = words.pop("egg", "")
    rest = "&".join(f"{key}={value}" for key, value in words.items() if key)
    url = f"{url}#{rest}" if rest else url
    return f"{name} @ {url}" if name else url


def _canonical(line: str) -> str:
    match = _PINNED.fullmatch(line)
    if match is None:
        return " ".join(line.split())
    return f"{_project(match[1])}{match[2] or ''}=={match[3]}"


def _project(name: str) -> str:
    """A project's name as the index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
