"""Private keys in PEM where they run over several lines, masked one line after another. Pure.

What a key is made of: a line that begins it, lines of base64 and of headers (RFC 1421), a line that
ends it. A beginning that nothing of the kind follows hides no more than itself.
"""

from __future__ import annotations

import re

MASK = "****"
LONGEST = 32 * 1024  # characters of a key; one of 16,384 bits has 12,600
HINT = "PRIVATE KEY"

_BEGIN = re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_END = re.compile(r"-----END [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_BASE64 = re.compile(r"[A-Za-z0-9+/=]*")
_HEADER = re.compile(r"(?:^|\s)(?:Proc-Type|DEK-Info|Comment|Version): ")
_AROUND = " \t\r\"',;+"  # of a key in JSON, YAML or somebody's source
_SURE = 32  # characters that no word of a log has by chance


class KeyLines:
    """Lines of a text in their order, without the private keys in them."""

    def __init__(self) -> None:
        self._left = 0

    @property
    def open(self) -> bool:
        """Whether a key has begun and not ended."""
        return self._left > 0

    def shown(self, line: str) -> str | None:
        """What is to be shown of a line (without its break); None of one within a key."""
        if not self.open:
            return self._outside(line)
        self._left -= len(line) + 1
        end = _END.search(line)
        if end:
            self._left = 0
            rest = line[end.end() :].replace("\\n", "").strip(_AROUND)
            return self._outside(rest) if rest else None
        if self.open and _of_a_key(line):
            return None
        self._left = 0
        return self._outside(line)

    def _outside(self, line: str) -> str:
        shown, at = "", 0
        while begin := _BEGIN.search(line, at) if HINT in line else None:
            shown += line[at : begin.start()] + MASK
            end = _END.search(line, begin.end())
            if end is None:
                self._left = LONGEST
                return shown
            at = end.end()
        return shown + line[at:]


def without_rest(text: str) -> str:
    """A text without the rest of a private key that began before it."""
    if HINT not in text or not _END.search(text):
        return text
    shown: list[str] = []
    since = 0  # the lines from here on may be of a key
    for line in text.splitlines(keepends=True):
        ends = list(_END.finditer(line))
        if ends:
            shown[since:] = [MASK + line[ends[-1].end() :]]
        else:
            shown.append(line)
        if ends or not _of_a_key(line):
            since = len(shown)
    return "".join(shown)


def _of_a_key(line: str) -> bool:
    """Whether a line can stand within a key; what a log put before it does not count."""
    text = line.strip().removesuffix("\\n").strip(_AROUND).removesuffix("\\n")
    if _BASE64.fullmatch(text) or _HEADER.search(text):
        return True
    last = text.rpartition(" ")[2]
    return len(last) >= _SURE and _BASE64.fullmatch(last) is not None
