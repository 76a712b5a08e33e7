"""What the part of the round that belongs to one kind of scheduler comes to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hpcrunner.doctor.finding import Finding


@dataclass(frozen=True, slots=True)
class Cluster:
    """The judgements; ``hindered`` is why no job can be submitted, empty where one can.

    ``changes`` (keys of the site) and ``differs`` (in words): how the probe goes round what is
    wrong. ``step`` is a command that starts a step inside a job, empty where there is none.
    """

    findings: tuple[Finding, ...] = ()
    hindered: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    differs: list[str] = field(default_factory=list)
    step: tuple[str, ...] = ()
