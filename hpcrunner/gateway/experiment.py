"""Experiment: a journal row, and the states it moves through."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hpcrunner.batch.batch import NAME_PREFIX
from hpcrunner.request.reasons import Reason
from hpcrunner.schedulers.contract import Job
from hpcrunner.sites.spec import JobSpec


class State(str, Enum):
    """Where an experiment stands. An attempt only moves down this list; the last five are final.

    An attempt that is to be made again takes the experiment back to ACCEPTED, with the next
    attempt's number; a final state is never left.
    """

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


class Reports(str, Enum):
    """Whether an experiment's response queue is to be told how it fares."""

    NONE = ""  # nobody listens, or nobody may be told
    DUE = "due"
    OVER = "over"  # told to the end, or given up


FINAL = frozenset(
    {State.SUCCEEDED, State.FAILED, State.CANCELLED, State.LOST, State.REJECTED},
)
LIVE = tuple(s for s in State if s not in FINAL)
SUBMITTED = (State.PENDING, State.RUNNING)
# Ended otherwise than anybody wished: kept in view until somebody retries or drops it.
SET_ASIDE = (State.FAILED, State.LOST, State.REJECTED)


def ending_words(state: str, reason: str | None, text: str) -> str:
    """How something ended, for people who see its state beside this: ``REASON: text``, without
    the reason where it is the state's own word (CANCELLED, LOST, REJECTED).
    """
    return ": ".join(part for part in (reason if reason != state else None, text) if part)


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
    ``pending`` is what it waits for: the scheduler's reason, or why there is another attempt.
    ``not_before`` holds an attempt back; the failures are those of the attempts so far, by whose
    fault they were. ``aside`` is True for an experiment of the dead list; ``retried_as`` is the
    id under which somebody had it run again. ``server`` is where its queue is, as the queue's
    source calls it. ``rule`` is the name of the site's rule that it was taken by. Times are
    epoch seconds by the gateway's clock, except ``started_at`` and ``ended_at``, which are the
    scheduler's or the node's.
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
    not_before: float = 0.0
    infrastructure_failures: int = 0
    payload_failures: int = 0
    aside: bool = False
    retried_as: str = ""
    server: str = ""
    reports: Reports = Reports.NONE
    rule: str = ""

    @property
    def job(self) -> Job:
        """The job of the present attempt, as the scheduler is asked about it."""
        return Job(self.job_id, NAME_PREFIX + self.batch)


@dataclass(frozen=True, slots=True)
class Whose:
    """What is counted together: experiments of one rule, queue and owner."""

    rule: str
    queue: str
    owner: str


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """An attempt that ended and was followed by another."""

    attempt: int
    batch: str
    task: int
    job_id: str
    state: State
    reason: Reason
    text: str
    exit_code: int | None
    node: str
    submitted_at: float | None
    started_at: float | None
    ended_at: float | None
