"""The accession of an attempt: what StudioML's runners call one run of an experiment on a host.

``<host>-<seconds>``, the seconds since the epoch in base 62 with the digits 0-9, A-Z, a-z. It
names the attempt in reports (``uniqueId``) and its document ``scrape-host-<accession>.json``,
and of one host the later is the greater as text.
"""

from __future__ import annotations

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def accession(host: str, began_at: float) -> str:
    """The accession of what began on ``host`` at ``began_at`` (epoch seconds)."""
    return f"{host}-{base62(max(0, int(began_at)))}"


def base62(number: int) -> str:
    """A number from 0 on in base 62."""
    digits = ""
    while True:
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
        if number == 0:
            return digits
