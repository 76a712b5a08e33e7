"""Which of a request's requirement lines can be installed on a node, and how. Pure.

The client sends its own ``pip freeze``, so lines name things that exist on its machine only, and
tools that do not work with every Python. Released clients have put ``-gpu`` behind tensorflow
where GPUs are asked for, the Go runner did the same, and today's tensorflow has no such package.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.reasons import Reason

_EDITABLE = re.compile(r"(?:-e|--editable)[ =]\s*(.*)")
_LOCAL = re.compile(r"(?:git\+)?file:|[/~]|\.{1,2}(?:/|$)", re.IGNORECASE)
_DIRECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\s*(?:\[[^\]]*\])?\s*@\s*(.*)")
_PINNED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^\]]*\])?\s*={2,3}\s*([^\s;,*]+)")
_SOURCE = re.compile(_DIRECT.pattern + r"|(?:git|hg|svn|bzr)\+.*|https?:.*")
_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?=$|[\s\[=<>!~;@])(?:.*)")
_ARCHIVE = re.compile(r"(\S+) @ file://\S*#(sha256=[0-9a-f]{64})")
# In a folder of packages that was made for a node: lines that name a source, and what to install
# of that folder for each.
PINS = "pins.json"
# From this version on the client packs and knows a single file by a member ``./<name>``.
_DOT_SLASH_IS_A_FILE = (0, 0, 39)
_TENSORFLOW = ("tensorflow", "tf-nightly")
# By Python version, newest first: the first releases that work with it, and an upper bound.
# 3.12 has no pkgutil.ImpImporter, 3.10 no collections.Mapping, and setuptools 82 no longer has
# the pkg_resources for whose sake old code pins it.
_FLOORS: tuple[tuple[tuple[int, ...], Mapping[str, tuple[str, str]]], ...] = (
    ((3, 12), {"pip": ("23.1.2", ""), "setuptools": ("66.1", ",<81")}),
    ((3, 10), {"pip": ("19.3", ""), "setuptools": ("44", ",<81")}),
)
# Debian's pip lists a package that no index has.
_NO_SUCH_PACKAGE = re.compile(r"pkg[-_.]resources\b", re.IGNORECASE)


# An installer's settings that a request may bring in ``config.env``, for an index of its own.
SETTING = re.compile(r"(PIP|UV)_[A-Z0-9_]+|(HTTPS?|NO|ALL)_PROXY|(https?|no|all)_proxy")


class EnvironmentFailed(HpcrunnerError):
    """The Python environment that the request asks for cannot be had.

    ``lines`` are the last ones of what an installer printed.
    """

    exit_code = 78  # EX_CONFIG
    reason = Reason.ENVIRONMENT_FAILED

    def __init__(
        self, what: str, *, where: str = "", remedy: str = "", lines: tuple[str, ...] = ()
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.lines = lines


@dataclass(frozen=True, slots=True)
class Requirements:
    """Lines for a requirements file, in the request's order, and what was left out and why.

    ``changed`` are pairs of a line as it came and as it is installed. ``frozen`` is True where
    each line came with one exact version or source: the list of a whole environment, as ``pip
    freeze`` writes it.
    """

    lines: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    frozen: bool
    changed: tuple[tuple[str, str], ...] = ()

    @property
    def canonical(self) -> tuple[str, ...]:
        """The lines as they enter the environment's key: order and spelling do not count."""
        return tuple(sorted(map(_canonical, self.lines)))


def installer_settings(environment: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The entries of ``config.env`` that steer the installers."""
    return tuple(sorted((k, v) for k, v in environment if SETTING.fullmatch(k)))


def groom(
    entries: Iterable[str], python: str = "", *, gpus: bool = False, studioml: str = ""
) -> Requirements:
    """Sort a request's requirement entries into lines to install and lines to leave out.

    ``python`` is the version of the interpreter ("" is not known), ``gpus`` whether the job has
    some. ``studioml`` is the line of the client library that comes with the code; it stands for
    any other. Raises EnvironmentFailed for an entry that would be more than one requirement.
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
    if studioml:
        left_out += [(line, "the code brings its own") for line in lines if _is_studioml(line)]
        lines = [studioml, *(line for line in lines if not _is_studioml(line))]
    fitted = _fitted(lines, _numbers(python), gpus=gpus)
    changed = tuple(pair for pair in zip(lines, fitted, strict=True) if pair[0] != pair[1])
    once = {_canonical(line): line for line in reversed(fitted)}
    return Requirements(tuple(reversed(once.values())), tuple(left_out), frozen, changed)


def _fitted(lines: Sequence[str], python: tuple[int, ...], *, gpus: bool) -> list[str]:
    """The lines as they can be installed for that Python, with or without GPUs."""
    names = {_project(match[1]) for match in map(_PINNED.match, lines) if match}
    return [_for_python(_for_gpus(line, names, gpus=gpus), python) for line in lines]


def _for_gpus(line: str, names: Collection[str], *, gpus: bool) -> str:
    """tensorflow's build for GPUs: a package of its own below 2.1, the same one from there on.

    https://pypi.org/project/tensorflow-gpu; what it holds from 2.12 on is an error only.
    """
    match = _NAMED.fullmatch(line)
    name = _project(match[1]) if match else ""
    if match is None or name.removesuffix("-gpu") not in _TENSORFLOW:
        return line
    pin = _PINNED.fullmatch(line)
    separate = pin is not None and _numbers(pin[3]) < (2, 1)
    if name.endswith("-gpu"):
        # A range may mean the old ones, and a URL's wheel has its own name.
        kept = separate or (pin is None and any(sign in line for sign in "<~@"))
        return line if kept else name.removesuffix("-gpu") + line[match.end(1) :]
    if gpus and separate and not {f"{t}-gpu" for t in _TENSORFLOW} & set(names):
        return f"{name}-gpu{line[match.end(1) :]}"
    return line


def _for_python(line: str, python: tuple[int, ...]) -> str:
    """A pin of the client's tools, raised where that version cannot work with this Python."""
    match = _PINNED.fullmatch(line)
    if match is None:
        return line
    for since, floors in _FLOORS:
        floor = floors.get(_project(match[1]))
        if python >= since and floor is not None and _numbers(match[3]) < _numbers(floor[0]):
            return f"{_project(match[1])}>={floor[0]}{floor[1]}"
    return line


def _is_studioml(line: str) -> bool:
    match = _NAMED.match(line)
    return match is not None and _project(match[1]) == "studioml"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


def with_pins(requirements: Requirements, pins: Mapping[str, str]) -> Requirements:
    """The same by names and versions, where lines name a source."""
    lines = tuple(pins.get(line, line) for line in requirements.lines)
    return replace(requirements, lines=lines)


def is_source(line: str) -> bool:
    """Whether a groomed line names a URL or a repository."""
    return _SOURCE.fullmatch(line) is not None


def is_old_client(python_packages: Collection[str]) -> bool:
    """Whether the request comes from a client that knows files and folders the other way round.

    The client sends its own version with its packages.
    """
    version = pinned_version(python_packages, "studioml")
    if version is None:
        return False
    return tuple(map(int, re.findall(r"\d+", version)[:3])) < _DOT_SLASH_IS_A_FILE


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
        # Where on this node an archive of the request's code lies does not count.
        return _ARCHIVE.sub(r"\1 @ \2", " ".join(line.split()))
    return f"{_project(match[1])}{match[2] or ''}=={match[3]}"


def _project(name: str) -> str:
    """A project's name as the index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
