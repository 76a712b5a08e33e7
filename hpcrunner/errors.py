"""The one shape of every error a person reads: what, where, and what to do about it."""

from __future__ import annotations

import re

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def without_colours(text: str) -> str:
    """Text without the sequences by which programs colour it."""
    return _COLOUR.sub("", text)


def one_line(text: str) -> str:
    """Text without line breaks, colours or terminal control.

    Messages, file names and what servers and programs say are untrusted.
    """
    folded = " ".join(without_colours(text).split())
    return "".join(c if c.isprintable() else "\ufffd" for c in folded)


class HpcrunnerError(Exception):
    """An error with its place and its remedy, printed as one line.

    ``exit_code`` is what the command line ends with; the values follow ``sysexits.h`` and
    are listed in docs/cli.md.
    """

    exit_code = 70  # EX_SOFTWARE

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(self.line())

    def line(self) -> str:
        """One line: ``where: what; remedy``, by ``one_line``."""
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.remedy:
            text = f"{text}; {self.remedy}"
        return one_line(text)
