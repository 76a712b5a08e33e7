"""Bytes and durations as StudioML writes them, and as people read them."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.errors import shown

# Where the Go runner's own types end: uint64 bytes, int64 nanoseconds (about 292 years).
MAX_BYTES = 2**64
MAX_SECONDS = 2**63 / 1e9
MAX_TEXT = 128

_SI = ("k", "m", "g", "t", "p", "e")
_BYTE_UNITS = {
    "": 1,
    "b": 1,
    **{f"{u}{b}": 1000**n for n, u in enumerate(_SI, 1) for b in ("", "b")},
    **{f"{u}i{b}": 1024**n for n, u in enumerate(_SI, 1) for b in ("", "b")},
}
_BYTES = re.compile(r"([0-9.,]+)\s*([a-z]*)", re.ASCII)
_NUMBER = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
_PLAIN = re.compile(rf"[+-]?(?:{_NUMBER})")
_PART = re.compile(rf"([+-]?)({_NUMBER})(ns|us|µs|μs|ms|s|m|h)")
_DURATION_UNITS = {
    "ns": Fraction(1, 10**9),
    "us": Fraction(1, 10**6),
    "µs": Fraction(1, 10**6),
    "μs": Fraction(1, 10**6),  # U+03BC, which Go takes beside U+00B5
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
}


class UnitError(HpcrunnerError):
    """A figure that is no size or no duration; the text names it and the forms allowed."""

    exit_code = 65  # EX_DATAERR


def parse_bytes(value: str | int | float) -> int:
    """A size in bytes, by the rules of go-humanize ``ParseBytes``.

    A number, then optionally blanks and a unit, in any case: ``b``; ``k m g t p e`` with or
    without ``b`` (powers of 1000); ``ki mi gi ti pi ei`` with or without ``b`` (powers of
    1024). Commas in the number are ignored, fractions of a byte cut off. A plain number is
    bytes. Raises UnitError for anything else, negative sizes, and 16 EiB or more.
    """
    if isinstance(value, str):
        match = _BYTES.fullmatch(value.strip().lower()) if len(value) <= MAX_TEXT else None
        digits = match[1].replace(",", "") if match else ""
        if match is None or match[2] not in _BYTE_UNITS or not _PLAIN.fullmatch(digits):
            raise _not_a_size(value)
        size = Fraction(_padded(digits)) * _BYTE_UNITS[match[2]]
    elif isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        raise _not_a_size(value)
    else:
        size = Fraction(value)
    if not 0 <= size < MAX_BYTES:
        raise _not_a_size(value)
    return int(size)


def parse_duration(value: str | int | float) -> float:
    """A duration in seconds.

    Go's form (``1h30m``, ``1.5h``, ``300ms``; units ns us µs ms s m h) and the Python
    client's, which may give every part a sign of its own (``-1h-30m``), in any case. A leading
    sign goes for every part without one: ``-1h30m`` is minus ninety minutes, as in Go. A plain
    number is seconds. Raises UnitError for anything else, ``d`` (which neither client has) and
    what exceeds 292 years included.
    """
    if isinstance(value, str):
        seconds = _duration_of(value)
    elif isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        raise _not_a_duration(value)
    else:
        seconds = Fraction(value)
    if abs(seconds) > MAX_SECONDS:
        raise _not_a_duration(value)
    return float(seconds)


def format_bytes(size: int) -> str:
    """A size for people, in powers of 1000: ``256 MB``. ``parse_bytes`` reads it back."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if amount < 999.5:  # what would round up to 1000 takes the next unit
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} EB"


def format_duration(seconds: float) -> str:
    """A duration for people: ``26h5m``, ``5m3s``, ``3.2s``, ``120ms``.

    Two units at most, the smaller rounded. ``parse_duration`` reads it back.
    """
    sign, rest = ("-", -seconds) if seconds < 0 else ("", seconds)
    if rest < 0.9995:
        return f"{sign}{round(rest * 1000)}ms" if rest else "0s"
    if rest < 59.95:
        return f"{sign}{rest:.1f}".removesuffix(".0") + "s"
    if rest < 3599.5:
        minutes, left = divmod(round(rest), 60)
        return f"{sign}{minutes}m" + (f"{left}s" if left else "")
    hours, left = divmod(round(rest / 60), 60)
    return f"{sign}{hours}h" + (f"{left}m" if left else "")


def _duration_of(value: str) -> Fraction:
    text = value.strip().lower()
    if not text or len(text) > MAX_TEXT:
        raise _not_a_duration(value)
    if _PLAIN.fullmatch(text):
        return Fraction(_padded(text))
    overall, total, at = "", Fraction(0), 0
    while at < len(text):
        part = _PART.match(text, at)
        if part is None:
            raise _not_a_duration(value)
        if at == 0:
            overall = part[1]
        amount = Fraction(_padded(part[2])) * _DURATION_UNITS[part[3]]
        total += -amount if (part[1] or overall) == "-" else amount
        at = part.end()
    return total


def _padded(number: str) -> str:
    """``5.`` and ``.5`` as every Python's Fraction reads them."""
    sign = number[:1] if number[:1] in "+-" else ""
    whole, _, fraction = number.removeprefix(sign).partition(".")
    return f"{sign}{whole or 0}.{fraction or 0}"


def _not_a_size(value: object) -> UnitError:
    return UnitError(
        f"{shown(value)} is not a size",
        remedy="write a number of bytes or a number with a unit, such as 512m, 3gb or 4GiB",
    )


def _not_a_duration(value: object) -> UnitError:
    return UnitError(
        f"{shown(value)} is not a duration",
        remedy="write hours, minutes and seconds such as 1h30m, 90s or 500ms, or plain seconds",
    )
