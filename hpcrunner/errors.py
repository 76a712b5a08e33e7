"""The one shape of every error a person reads: what, where, and what to do about it."""

from __future__ import annotations


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
        """One line: ``where: what; remedy``. Line breaks inside the parts are folded."""
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.remedy:
            text = f"{text}; {self.remedy}"
        return " ".join(text.split())
