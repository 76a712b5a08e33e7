"""Reading loosely typed members: what real clients write, with the path for every error.

Numbers may come as text and text as numbers, null and a missing member mean the same, and a
member's name is found in another case where the exact one is not there (as Go's decoder does).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

from hpcrunner.request.errors import RequestError, shown
from hpcrunner.request.units import UnitError, parse_bytes, parse_duration

MAX_LINE = 4096

T = TypeVar("T")

_WHOLE = re.compile(r"[+-]?[0-9]{1,24}(?:\.0*)?")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# Controls, line separators, marks that turn the direction of text on a terminal, and halves
# of UTF-16 pairs, which no file name, argument or header can carry.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")


class Member:
    """A value of the message and the path to it. All readers raise RequestError with that path."""

    __slots__ = ("_folded", "path", "value")

    def __init__(self, value: object, path: str = "") -> None:
        self.value = value
        self.path = path
        self._folded: dict[str, Any] | None = None

    @property
    def missing(self) -> bool:
        """True where the member is not there, or null."""
        return self.value is None

    def get(self, *names: str) -> Member:
        """The first of these members that is there; else a missing one of the first name."""
        members = self._object()
        for name in names:
            if members.get(name) is not None:
                return self._child(members[name], name)
        if self._folded is None:
            self._folded = {n.lower(): v for n, v in members.items() if v is not None}
        for name in names:
            if name.lower() in self._folded:
                return self._child(self._folded[name.lower()], name)
        return self._child(None, names[0])

    def entries(self) -> list[tuple[str, Member]]:
        """The members of an object, with their names as sent."""
        return [(name, self._child(value, name)) for name, value in self._object().items()]

    def elements(self) -> list[Member]:
        """The entries of a list that are not null; a single text stands for a list of one."""
        if self.value is None:
            return []
        if isinstance(self.value, str):
            return [self]
        if not isinstance(self.value, list):
            raise self.error(f"is {self._kind()}", remedy="send a list")
        return [
            Member(value, f"{self.path}[{index}]")
            for index, value in enumerate(self.value)
            if value is not None
        ]

    def text(self) -> str:
        """Text as it is; numbers and booleans as Python writes them; "" for null."""
        if self.value is None:
            return ""
        if isinstance(self.value, (dict, list)):
            raise self.error(f"is {self._kind()}", remedy="send text")
        text = str(self.value)
        if _SURROGATE.search(text):
            raise self.error("half of a UTF-16 pair, which is not text", remedy="send UTF-8")
        return text

    def line(self, most: int = MAX_LINE) -> str:
        """Text of at most ``most`` characters, none of them a control character."""
        text = self.text()
        if len(text) > most:
            raise self.error(f"{len(text)} characters", remedy=f"at most {most} are allowed")
        if _UNPRINTABLE.search(text):
            raise self.error("holds a control character", remedy="send printable text")
        return text

    def whole(self, most: int) -> int:
        """A whole number from 0 to ``most``; 0 for null and ""."""
        if self._unset():
            return 0
        value = self.value
        if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
            value = int(value.strip().partition(".")[0])
        elif isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise self.error(f"is {self._kind()}", remedy=f"send a whole number from 0 to {most}")
        return value

    def number(self) -> float | None:
        """A finite number, or None for null and ""."""
        if self._unset():
            return None
        try:
            if isinstance(self.value, (bool, dict, list)):
                raise ValueError
            number = float(self.value)  # type: ignore[arg-type]
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise self.error(f"is {self._kind()}", remedy="send a finite number")
        return number

    def truth(self) -> bool | None:
        """True, false, or None for null; also as 0 and 1 or the words yes/no, true/false."""
        if self._unset():
            return None
        word = str(self.value).lower()
        if isinstance(self.value, (bool, int, str)) and word in _TRUTHS:
            return _TRUTHS[word]
        raise self.error(f"is {self._kind()}", remedy="send true, false or null")

    def duration(self) -> float | None:
        """Seconds, or None for null and ""."""
        return None if self._unset() else self._measured(parse_duration)

    def size(self) -> int:
        """Bytes; 0 for null and ""."""
        return 0 if self._unset() else self._measured(parse_bytes)

    def error(self, what: str, *, remedy: str) -> RequestError:
        """The error to raise for this member."""
        return RequestError(what, where=self.path, remedy=remedy)

    def _measured(self, parse: Callable[[str | int | float], T]) -> T:
        try:
            return parse(self.value if isinstance(self.value, (int, float)) else self.text())
        except UnitError as error:
            raise self.error(error.what, remedy=error.remedy) from None

    def _unset(self) -> bool:
        return self.value is None or self.value == ""

    def _object(self) -> dict[str, Any]:
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            raise self.error(f"is {self._kind()}", remedy="send an object")
        return self.value

    def _child(self, value: object, name: str) -> Member:
        shown_name = name if _PLAIN_NAME.fullmatch(name) else shown(name)
        return Member(value, f"{self.path}.{shown_name}" if self.path else shown_name)

    def _kind(self) -> str:
        """The value's kind in JSON's words; never the value, which may be a secret."""
        if isinstance(self.value, bool):
            return "true or false"
        if isinstance(self.value, (int, float)):
            return f"the number {shown(self.value, 24).replace(chr(39), '')}"
        if isinstance(self.value, str):
            return "text"
        return "a list" if isinstance(self.value, list) else "an object"


_TRUTHS = {
    **dict.fromkeys(("true", "yes", "1"), True),
    **dict.fromkeys(("false", "no", "0"), False),
}
