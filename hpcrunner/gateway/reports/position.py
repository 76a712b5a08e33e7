"""How far an experiment's reports have come."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import Enum


class Stage(str, Enum):
    """What was said last of the attempt in hand."""

    NEW = "new"  # nothing yet
    WAITING = "waiting"  # it has not started
    CLAIMED = "claimed"  # a job has it; its accession comes next
    STARTED = "started"
    STOPPED = "stopped"  # the log is told to its end; its ending itself comes next
    DONE = "done"  # nothing more is to be said of the experiment


@dataclass(frozen=True, slots=True)
class Position:
    """What has been told: of which attempt (0: of none yet), and up to where in its files.

    ``events`` and ``log`` are offsets in bytes; ``cut``: at the latter lies the rest of a line
    that is left out. ``host`` and ``unique`` are the executor and the accession of an attempt that
    has started.
    """

    attempt: int = 0
    stage: Stage = Stage.NEW
    events: int = 0
    log: int = 0
    cut: bool = False
    host: str = ""
    unique: str = ""

    def to_json(self) -> str:
        """The position as JSON text."""
        return json.dumps(asdict(self))


def position_from(text: str) -> Position:
    """What ``Position.to_json`` wrote. Raises ValueError or TypeError."""
    raw = json.loads(text)
    return Position(**{**raw, "stage": Stage(raw["stage"])})
