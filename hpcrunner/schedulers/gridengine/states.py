"""Grid Engine's words in the contract's terms: states of qstat(1), failures of accounting(5)."""

from __future__ import annotations

import re

from hpcrunner.request.reasons import Reason
from hpcrunner.schedulers.contract import JobState

# A job that is over and still listed; ``f`` where finished jobs are kept for a while instead.
_OVER = frozenset({"z", "f"})
# Any letter may stand beside others: ``hqw``, ``Eqw``, ``dRr``.
_RUNNING = re.compile(r"[rtsST]")


def over(word: str) -> bool:
    """Whether a listed job has ended, however."""
    return word in _OVER


def state_of(word: str) -> JobState:
    """Where a listed job stands; one that is over counts as completing."""
    if over(word):
        return JobState.COMPLETING
    if "q" in word:
        return JobState.QUEUED
    # A letter that is new to us is never an ending.
    return JobState.RUNNING


def known(word: str) -> bool:
    """Whether a state word has a letter that we can place."""
    return over(word) or "q" in word or _RUNNING.search(word) is not None


def pending(word: str) -> str:
    """Why a job waits, as far as the state says."""
    if "E" in word:
        return f"launch failed ({word})"
    return f"held ({word})" if "h" in word else word


def stuck(word: str) -> bool:
    """Whether it waits for what does not pass by itself: the error state, until it is cleared."""
    return "E" in word and "q" in word


# What ``failed`` in accounting(5) says; the texts are those that qacct prints.
_AFTER = 100  # "assumedly after job": the job ran, and was ended by a signal
_ENFORCED = 37  # "qmaster enforced h_rt, h_cpu, or h_vmem limit"
_RESCHEDULED = frozenset({24, 25})  # "migrating", "rescheduling": this run was not the last
_NODE = frozenset({19, 20, 21, 22})  # the host's daemon cannot tell how the job ended
_RAN = frozenset({0, 12, 13, 14, 15, 16, 30, _AFTER})  # the job itself ran to an end
_SIGNALLED = 128
_KILL = 9


def rescheduled(failed: int) -> bool:
    """Whether the row is of a run that another one follows."""
    return failed in _RESCHEDULED


def signal_of(failed: int, exit_status: int) -> int | None:
    """The signal that ended the job, None where none did."""
    if failed in (_AFTER, _ENFORCED) and _SIGNALLED < exit_status <= _SIGNALLED + 64:
        return exit_status - _SIGNALLED
    return None


def reason_of(
    failed: int, exit_status: int, *, deleted: bool, over_time: bool, over_memory: bool
) -> Reason:
    """Why a run ended.

    ``deleted``: accounting says that somebody deleted it (not every Grid Engine does). The others
    are measured against what was asked for, because one code stands for several limits, and a
    plain signal for yet another.
    """
    if deleted:
        return Reason.CANCELLED
    if failed == _ENFORCED:
        return Reason.OUT_OF_MEMORY if over_memory and not over_time else Reason.TIME_LIMIT
    if failed == _AFTER and signal_of(failed, exit_status) == _KILL:
        if over_memory:
            return Reason.OUT_OF_MEMORY
        return Reason.TIME_LIMIT if over_time else Reason.SCHEDULER_FAILED
    if failed in _NODE:
        return Reason.NODE_FAIL
    if failed not in _RAN:
        return Reason.LAUNCH_FAILED
    return Reason.COMPLETED if failed == 0 and exit_status == 0 else Reason.SCHEDULER_FAILED
