"""Finding: what one check has to say."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.redact import redact_text


class Verdict(str, Enum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"  # experiments run, and something will be worse than it need be
    FAULT = "fault"  # some experiments, or all, cannot run
    NOT_TRIED = "not tried"  # and ``what`` says why


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's: ``check`` is its name in docs/doctor.md, the rest as in errors."""

    check: str
    verdict: Verdict
    what: str
    where: str = ""
    remedy: str = ""

    def line(self) -> str:
        """``where: what; remedy`` on one line, without secrets."""
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.remedy:
            text = f"{text}; {self.remedy}"
        return _plain(text)

    def parts(self) -> dict[str, str]:
        """``what``, ``where`` and ``remedy`` by name, without secrets."""
        return {name: _plain(getattr(self, name)) for name in ("what", "where", "remedy")}


def _plain(text: str) -> str:
    return " ".join(redact_text(text, prose=True).split())


def ok(check: str, what: str, where: str = "") -> Finding:
    """All is well, and this is how it is."""
    return Finding(check, Verdict.OK, what, where)


def warning(check: str, what: str, where: str = "", remedy: str = "") -> Finding:
    """It works, but."""
    return Finding(check, Verdict.WARNING, what, where, remedy)


def fault(check: str, what: str, where: str = "", remedy: str = "") -> Finding:
    """It does not work."""
    return Finding(check, Verdict.FAULT, what, where, remedy)


def not_tried(check: str, why: str, where: str = "", remedy: str = "") -> Finding:
    """Nobody knows."""
    return Finding(check, Verdict.NOT_TRIED, why, where, remedy)


def of_error(check: str, error: HpcrunnerError) -> Finding:
    """An error of the product as a fault."""
    return fault(check, error.what, error.where, error.remedy)
