"""What a site comes to after inheritance: as YAML for people, and compared with another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hpcrunner.sites.layers import KEY, Merged
from hpcrunner.sites.problems import Place
from hpcrunner.sites.site import Site
from hpcrunner.sites.yamltext import read, write


@dataclass(frozen=True, slots=True)
class Difference:
    """A key with another value in each of two sites; None where a site does not have it."""

    key: str
    left: str | None
    right: str | None


def effective_yaml(merged: Merged, site: Site, *, defaults: bool, origins: bool) -> str:
    """The merged file as YAML: a site file of its own that starts from nothing.

    With ``defaults`` also what no file says, except for keys without a default; with ``origins``
    each key has a comment that says where it comes from.
    """
    data = {"name": site.name, **merged.data}
    if defaults:
        data = _over(_plain(site), data)
    text = write(data)
    return _commented(text, data, merged) if origins else text


def differences(left: Site, right: Site) -> list[Difference]:
    """The keys in which two sites differ, names apart, in the order of the keys.

    Items of a list with names of their own are compared by those: ``partitions[gpu].max_time``.
    """
    a, b = (dict(_leaves(_plain(site))) for site in (left, right))
    return [
        Difference(key, a.get(key), b.get(key))
        for key in sorted(a.keys() | b.keys())
        if key != "name" and a.get(key) != b.get(key)
    ]


def _plain(site: Site) -> dict[str, Any]:
    """All keys that have a value, as the file would spell them."""
    data = _texts(site.model_dump(mode="json", exclude={KEY}))
    assert isinstance(data, dict)
    return data


def _texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _texts(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_texts(inner) for inner in value]
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """The one mapping over the other, in the order of the lower one."""
    merged = {**below, **{key: value for key, value in above.items() if value is not None}}
    for key, value in merged.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            merged[key] = _over(below[key], value)
    return merged


def _commented(text: str, data: dict[str, Any], merged: Merged) -> str:
    lines = text.splitlines()
    document = read(text)
    for place in _keys(data):
        number = document.line(place) - 1
        lines[number] += f"  # {_where(place, merged)}"
    return "\n".join(lines) + "\n"


def _where(place: Place, merged: Merged) -> str:
    if _stands(place, merged.data):
        return str(merged.origin(place))
    return "the file's name" if place == ("name",) else "default"


def _stands(place: Place, data: Any) -> bool:
    for step in place:
        if not isinstance(data, dict) or data.get(str(step)) is None:
            return False
        data = data[str(step)]
    return True


def _keys(data: dict[str, Any], place: Place = ()) -> Iterator[Place]:
    """The keys whose value is no mapping with keys: a list comes from one file as a whole."""
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield from _keys(value, (*place, key))
        else:
            yield (*place, key)


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for label, inner in zip(_labels(value), value, strict=True):
            yield from _leaves(inner, f"{place}[{label}]")
    else:
        yield place, value


def _labels(items: list[Any]) -> list[str]:
    """What the items of a list are called: by name where all have one of their own, else number."""
    if all(isinstance(item, dict) for item in items):
        names = [item.get("name") or item.get("type") or "" for item in items]
        if all(names) and len(set(names)) == len(names):
            return names
    return [str(index) for index in range(len(items))]
