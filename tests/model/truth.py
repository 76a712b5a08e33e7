"""How each attempt may be told to have ended, by what the world itself did to it.

It is worked out here again and knows nothing of gateway/endings.py.
"""

from __future__ import annotations

from collections.abc import Callable

from hpcrunner.gateway.experiment import State
from hpcrunner.request.reasons import Reason

Ending = tuple[State, Reason]
Attempt = tuple[str, int]

_WORDS = {
    "TIMEOUT": Reason.TIME_LIMIT,
    "OUT_OF_MEMORY": Reason.OUT_OF_MEMORY,
    "NODE_FAIL": Reason.NODE_FAIL,
    "BOOT_FAIL": Reason.BOOT_FAIL,
    "LAUNCH_FAILED": Reason.LAUNCH_FAILED,
    "PREEMPTED": Reason.PREEMPTED,
    "DEADLINE": Reason.DEADLINE,
}
SUCCESS = (State.SUCCEEDED, Reason.COMPLETED)
CANCELLED = (State.CANCELLED, Reason.CANCELLED)
_REQUEUED = (Reason.NODE_FAIL, Reason.BOOT_FAIL, Reason.PREEMPTED, Reason.SCHEDULER_FAILED)
LOST = (State.LOST, Reason.LOST)


class Broken(AssertionError):
    """The gateway broke a promise."""


class Truth:
    """Methods take the attempt that something happened to, None for one of nobody's."""

    def __init__(self) -> None:
        self._endings: dict[Attempt, set[Ending]] = {}
        self._told_by_a_run: set[Attempt] = set()
        self._by_record_alone: dict[Attempt, tuple[float, set[Ending]]] = {}

    def begins(self, attempt: Attempt) -> None:
        """A run of it has begun: what was true of it is over."""
        self._endings.pop(attempt, None)

    def ended(self, attempt: Attempt, record: Reason | None, word: str, now: float) -> None:
        """Its run left that record, and Slurm says that word."""
        self._told_by_a_run.add(attempt)
        self._endings[attempt] = expected(record, word)
        if record is not None:
            self._by_record_alone[attempt] = (now, expected(record, "COMPLETED"))

    def without_a_run(self, attempt: Attempt | None, *endings: Ending) -> None:
        """A job of it came to nothing; where there was a run, that counts."""
        if attempt is not None and attempt not in self._told_by_a_run:
            self._endings.setdefault(attempt, set()).update(endings)

    def open_again(self, attempt: Attempt | None) -> None:
        """An ended job was requeued: it may end otherwise, or be told by what it left."""
        if attempt is not None:
            self._told_by_a_run.discard(attempt)
            if attempt in self._by_record_alone:
                self._endings[attempt] |= self._by_record_alone[attempt][1]

    def forgotten(self, attempt: Attempt | None) -> None:
        """The controller has lost it. One to be requeued may keep the account of its first end."""
        if attempt is not None:
            told = {(State.FAILED, reason) for reason in _REQUEUED}
            self._endings.setdefault(attempt, set()).update({LOST, CANCELLED} | told)

    def of(self, attempt: Attempt) -> set[Ending]:
        """All that may be said of it."""
        return self._endings.get(attempt, set())

    def by_record_alone(self, attempt: Attempt, blind: Callable[[float], bool]) -> set[Ending]:
        """What its record says, where accounting was away since then."""
        since, alone = self._by_record_alone.get(attempt, (0.0, set()))
        return alone if blind(since) else set()


def expected(record: Reason | None, word: str) -> set[Ending]:
    """How a run may be told to have ended, by its record and Slurm's word (or a step's)."""
    contrary = _WORDS.get(word)
    if contrary and record in (
        None, Reason.COMPLETED, Reason.PAYLOAD_EXIT, Reason.PAYLOAD_SIGNAL, Reason.CANCELLED,
    ):  # fmt: skip
        return {(State.FAILED, contrary)}
    if record is Reason.COMPLETED:
        return {SUCCESS}
    if record is Reason.CANCELLED:
        return {CANCELLED}
    if record is not None:
        return {(State.FAILED, record)}
    return {CANCELLED} if word == "CANCELLED" else {(State.FAILED, Reason.SCHEDULER_FAILED)}
