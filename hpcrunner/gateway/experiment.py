"""Experiment: a journal row, and the states it moves through."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hpcrunner.request.reasons import Reason
from hpcrunner.sites.spec import JobSpec


class State(str, Enum):
    """Where an experiment stands. It only moves down this list; the last five are final."""

    ACCEPTED = "ACCEPTED"  # written down, not yet given to the scheduler
    SUBMITTING = "SUBMITTING"  # part of a batch that may or may not have reached the scheduler
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    LOST = "LOST"
    REJECTED = "REJECTED"  # set aside: never submitted, its message kept with the reason

    @property
    def final(self) -> bool:
        """True for the states that nothing leaves."""
        return self in FINAL

    def may_become(self, later: State) -> bool:
        """True where the step is forward: a final state never changes, no state goes back."""
        return not self.final and _RANK[later] > _RANK[self]


FINAL = frozenset(
    {State.SUCCEEDED, State.FAILED, State.CANCELLED, State.LOST, State.REJECTED},
)
LIVE = tuple(s for s in State if s not in FINAL)
SUBMITTED = (State.PENDING, State.RUNNING)
_RANK = {state: (len(LIVE) if state in FINAL else rank) for rank, state in enumerate(State)}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an experiment ended: a final state, its reason, and one line for people."""

    state: State
    reason: Reason
    text: str
    exit_code: int | None = None
    node: str = ""
    started_at: float | None = None
    ended_at: float | None = None


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment as the journal has it (its message is read apart: it holds secrets).

    ``id`` is ours, ``key`` the client's. ``task`` is its index in the batch, from 1.
    ``pending`` is the scheduler's reason while it waits. Times are epoch seconds by the
    gateway's clock, except ``started_at`` and ``ended_at``, which are the scheduler's or the
    node's.
    """

    id: str
    key: str
    queue: str
    state: State
    received_at: float
    attempt: int = 1
    spec: JobSpec | None = None
    batch: str = ""
    task: int = 0
    job_id: str = ""
    reason: Reason | None = None
    text: str = ""
    exit_code: int | None = None
    node: str = ""
    pending: str = ""
    submitted_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    owner: str = ""
    project: str = ""
