"""A site file and the files it starts from, merged into one document that knows its lines.

The rule: ``extends`` names one base, which may have a base itself. Mappings are merged key by
key; everything else, lists too, is replaced whole. A key without a value takes away what the
base says, so that the default holds again. ``name`` is every file's own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcrunner.sites.folders import UnknownSite, behind, find, is_path
from hpcrunner.sites.problems import Origin, Place, SiteError
from hpcrunner.sites.yamltext import Document, YamlProblem, read

KEY = "extends"
_OWN = ("name", KEY)
_MOST_FILES = 8
_LONGEST = 1_000_000  # characters of one file; PyYAML takes a minute for ten times as many


@dataclass(frozen=True)
class Merged:
    """What a site says after inheritance, as text; ``files`` from the file itself to its base."""

    data: dict[str, Any]
    files: tuple[Path, ...]
    _origins: dict[Place, Origin] = field(repr=False)

    def origin(self, place: Place) -> Origin:
        """Where a key stands; for one that is not there, its nearest parent."""
        for end in range(len(place), 0, -1):
            if found := self._origins.get(place[:end]):
                return found
        return Origin(str(self.files[0]), 1)


@dataclass(frozen=True)
class _Layer:
    """One file. ``place`` of a key inside it is its line."""

    path: Path
    document: Document

    def origin(self, place: Place) -> Origin:
        return Origin(str(self.path), self.document.line(place))


def read_layers(path: Path) -> Merged:
    """Read a site file with all its bases. Raises SiteError."""
    layers = [_read(path, None)]
    while (base := _base(layers)) is not None:
        layers.append(base)
    data: dict[str, Any] = {}
    origins: dict[Place, Origin] = {}
    try:
        _merge_all(layers, data, origins)
    except RecursionError as error:
        raise SiteError([f"{path}: an anchor that holds itself"]) from error
    return Merged(data, tuple(layer.path for layer in layers), origins)


def _merge_all(layers: list[_Layer], data: dict[str, Any], origins: dict[Place, Origin]) -> None:
    for layer in reversed(layers):
        own = layer is layers[0]
        inherited = {
            key: value
            for key, value in layer.document.data.items()
            if key != KEY and (own or key not in _OWN)
        }
        _merge(data, inherited, layer, (), origins)


def _base(layers: list[_Layer]) -> _Layer | None:
    """The file that the last layer starts from."""
    last = layers[-1]
    wanted = last.document.data.get(KEY)
    if wanted is None:
        return None
    origin = last.origin((KEY,))
    if not isinstance(wanted, str) or not wanted:
        raise _wrong(origin, f"got {wanted!r}; allowed: the name of a site, or a path to a file")
    path = _file(last.path, wanted, origin)
    chain = [*(layer.path for layer in layers), path]
    if path.resolve() in {layer.path.resolve() for layer in layers}:
        raise _wrong(origin, f"goes in a circle: {' → '.join(map(str, chain))}")
    if len(chain) > _MOST_FILES:
        raise _wrong(origin, f"more than {_MOST_FILES} files, each starting from the next")
    return _read(path, origin)


def _file(path: Path, wanted: str, origin: Origin) -> Path:
    if is_path(wanted):
        return path.parent / os.path.expanduser(wanted)  # noqa: PTH111 - as in every path here
    try:
        return find(wanted, behind(path, wanted))
    except UnknownSite as error:
        raise _wrong(origin, error.what) from None


def _read(path: Path, wanted_by: Origin | None) -> _Layer:
    """One file; what cannot be read at all is told where it was asked for."""

    def unreadable(why: str) -> SiteError:
        if wanted_by is None:
            return SiteError([f"{path}: {why}"])
        return _wrong(wanted_by, f"{path}: {why}")

    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_LONGEST + 1)
    except OSError as error:
        raise unreadable(f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise unreadable(f"not UTF-8 text (byte {error.start})") from error
    if len(text) > _LONGEST:
        raise unreadable(f"more than {_LONGEST} characters: is it a site file?")
    try:
        return _Layer(path, read(text))
    except YamlProblem as problem:
        raise SiteError([f"{path} (line {problem.line}): {problem.problem}"]) from problem


def _wrong(origin: Origin, why: str) -> SiteError:
    return SiteError([f"{origin.file}: {KEY} (line {origin.line}): {why}"])


def _merge(
    base: dict[str, Any],
    own: dict[str, Any],
    layer: _Layer,
    place: Place,
    origins: dict[Place, Origin],
) -> None:
    for key, value in own.items():
        here = (*place, key)
        below = base.get(key)
        origins[here] = layer.origin(here)
        if isinstance(value, dict) and isinstance(below, dict):
            _merge(below, value, layer, here, origins)
            continue
        for known in [known for known in origins if known[: len(here)] == here and known != here]:
            del origins[known]
        if value is None and below is not None:
            del base[key]
            continue
        base[key] = _copied(value, layer, here, origins)


def _copied(value: Any, layer: _Layer, place: Place, origins: dict[Place, Origin]) -> Any:
    """The value as plain data of its own, and where each thing in it stands."""
    origins[place] = layer.origin(place)
    if isinstance(value, dict):
        return {key: _copied(inner, layer, (*place, key), origins) for key, inner in value.items()}
    if isinstance(value, list):
        return [
            _copied(inner, layer, (*place, index), origins) for index, inner in enumerate(value)
        ]
    return value
