"""What the gateway has just done, for those who count it or pass it on.

A happening is told from the gateway's own thread, after it was written down. A listener comes
back at once; what it raises is logged and harms nobody. The journal is the truth, this is news:
what happens while the gateway is down is never told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from hpcrunner.gateway.experiment import Experiment, Outcome
from hpcrunner.gateway.journal import NextAttempt
from hpcrunner.queues.contract import Served
from hpcrunner.request.record import Record

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Looked:
    """A source was looked at for messages, or passed over: drained, or no room for more."""

    source: str
    served: Served
    passed_over: bool


@dataclass(frozen=True, slots=True)
class Received:
    """A message became a row: ACCEPTED, or set aside as REJECTED. ``time_added`` is the client's
    (epoch seconds), where there is one.
    """

    experiment: Experiment
    time_added: float | None = None


@dataclass(frozen=True, slots=True)
class Copied:
    """Another copy of a known message came by this queue."""

    queue: str


@dataclass(frozen=True, slots=True)
class Submitted:
    """The scheduler has taken a batch of so many experiments."""

    experiments: int


@dataclass(frozen=True, slots=True)
class Started:
    """An attempt was seen to run; ``at`` is epoch seconds by the scheduler's clock."""

    experiment: Experiment
    node: str
    at: float | None


@dataclass(frozen=True, slots=True)
class Retried:
    """An attempt ended and is followed by another."""

    following: NextAttempt
    record: Record | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """An experiment has its final state. ``experiment`` is the row as it was before."""

    experiment: Experiment
    outcome: Outcome
    record: Record | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """The scheduler was asked: ``submit``, ``seek``, ``look_up`` or ``cancel``."""

    call: str
    seconds: float
    answered: bool


@dataclass(frozen=True, slots=True)
class Carrying:
    """So many bytes that jobs have saved wait for the gateway to send them to their stores."""

    bytes: int


@dataclass(frozen=True, slots=True)
class Round:
    """One round of the gateway is over, at that time (epoch seconds)."""

    at: float
    seconds: float


Happening = (
    Looked | Received | Copied | Submitted | Started | Retried | Ended | Asked | Carrying | Round
)  # fmt: skip
Tell = Callable[[Happening], None]


def nobody(happening: Happening) -> None:
    """Who is told where nobody listens."""


def everyone(*listeners: Tell) -> Tell:
    """Tell all of these, whatever becomes of one."""

    def tell(happening: Happening) -> None:
        for listener in listeners:
            try:
                listener(happening)
            except Exception:
                log.exception("a fault while passing on %s", type(happening).__name__)

    return tell
