"""Slurm's lists of array tasks: ``1-5,7,10-20:2%4``."""

from __future__ import annotations

import re
from collections.abc import Iterable

_PART = re.compile(r"(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?", re.ASCII)
_MOST = 4_000_001  # Slurm's upper bound of MaxArraySize


def indexes(text: str) -> frozenset[int] | None:
    """The tasks of such a list; None where it is cut short (``1,3,...``) or of another form."""
    found: set[int] = set()
    for part in text.partition("%")[0].split(","):
        match = _PART.fullmatch(part)
        if match is None:
            return None
        first = int(match[1])
        last = int(match[2] or first)
        step = int(match[3] or 1)
        if last >= _MOST or step < 1:
            return None
        found.update(range(first, last + 1, step))
    return frozenset(found)


def ranges(numbers: Iterable[int]) -> str:
    """The shortest list of plain ranges: ``1-3,7``."""
    parts: list[str] = []
    first = last = None
    for number in sorted(set(numbers)):
        if last is not None and number == last + 1:
            last = number
            continue
        if first is not None:
            parts.append(f"{first}" if first == last else f"{first}-{last}")
        first = last = number
    if first is not None:
        parts.append(f"{first}" if first == last else f"{first}-{last}")
    return ",".join(parts)
