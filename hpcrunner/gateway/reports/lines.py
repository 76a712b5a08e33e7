"""Pieces of a growing log file as lines, of any length and any bytes. Pure."""

from __future__ import annotations

from dataclasses import dataclass

LONGEST = 16 * 1024  # bytes of one line; the rest of it is left out
_CUT = " …"


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its end, and where in the file what follows it begins.

    ``cut``: the rest of the line is still to come, and is to be left out.
    """

    text: str
    offset: int
    cut: bool = False


def lines_of(data: bytes, offset: int, *, cut: bool, ended: bool) -> tuple[list[Line], int, bool]:
    """The lines of ``data``, which lies at ``offset`` of its file; then the offset from which to
    read on, and whether the rest of a line is left out there.

    ``cut``: ``data`` begins in a line of which the rest is left out. ``ended``: nothing follows,
    so that a last line without its end is one too.
    """
    lines: list[Line] = []
    at = 0
    while True:
        end = data.find(b"\n", at)
        if end < 0:
            break
        if not cut:
            lines.append(Line(_text(data[at:end]), offset + end + 1))
        at, cut = end + 1, False
    rest = len(data) - at
    if cut:
        at = len(data)
    elif rest > LONGEST:
        cut, at = True, len(data)
        lines.append(Line(_text(data[at - rest :]), offset + at, cut=True))
    elif rest and ended:
        at = len(data)
        lines.append(Line(_text(data[at - rest :]), offset + at))
    return lines, offset + at, cut


def _text(line: bytes) -> str:
    """A line as text: of one that was written over with carriage returns, its last state."""
    line = line.rstrip(b"\r").rpartition(b"\r")[2]
    text = line[:LONGEST].decode("utf-8", "replace")
    return text + _CUT if len(line) > LONGEST else text
