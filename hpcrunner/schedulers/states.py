"""Slurm's state words, 20.11 to 26.05, in the contract's terms.

A job has one base state and any number of flags; Slurm prints the flag where there is one. The
words are those of ``job_state_string()``; squeue(1) and sacct(1) describe them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hpcrunner.request.reasons import Reason
from hpcrunner.schedulers.contract import JobState


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a word says. ``reason`` is set exactly where the state is ENDED."""

    state: JobState
    reason: Reason | None = None
    known: bool = True

    @property
    def ended(self) -> bool:
        """True for an ending; a requeued or completing job has none yet."""
        return self.state is JobState.ENDED


_QUEUED = (
    "PENDING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "RESV_DEL_HOLD",
    "SPECIAL_EXIT",
)
_RUNNING = (
    "RUNNING",
    "CONFIGURING",
    "EXPEDITING",
    "POWER_UP_NODE",
    "RESIZING",
    "SIGNALING",
    "STOPPED",
    "SUSPENDED",
    "UPDATE_DB",
)
_COMPLETING = ("COMPLETING", "STAGE_OUT")
_ENDED = {
    "COMPLETED": Reason.COMPLETED,
    "FAILED": Reason.SCHEDULER_FAILED,
    "CANCELLED": Reason.CANCELLED,
    "TIMEOUT": Reason.TIME_LIMIT,
    "OUT_OF_MEMORY": Reason.OUT_OF_MEMORY,
    "NODE_FAIL": Reason.NODE_FAIL,
    "BOOT_FAIL": Reason.BOOT_FAIL,
    "LAUNCH_FAILED": Reason.LAUNCH_FAILED,
    "RECONFIG_FAIL": Reason.LAUNCH_FAILED,
    "PREEMPTED": Reason.PREEMPTED,
    "DEADLINE": Reason.DEADLINE,
    "REVOKED": Reason.SCHEDULER_FAILED,  # another cluster of the federation has it
}

STATES: dict[str, Meaning] = {
    **{word: Meaning(JobState.QUEUED) for word in _QUEUED},
    **{word: Meaning(JobState.RUNNING) for word in _RUNNING},
    **{word: Meaning(JobState.COMPLETING) for word in _COMPLETING},
    **{word: Meaning(JobState.ENDED, reason) for word, reason in _ENDED.items()},
}

# A requeue can follow these while accounting still shows the ending.
UNDONE_BY_REQUEUE = frozenset({Reason.NODE_FAIL, Reason.PREEMPTED, Reason.BOOT_FAIL})

# Reasons for which a job waits that do not pass by themselves (squeue(1), JOB REASON CODES):
# what it asks for is more than it may ever have here, or Slurm has set it aside.
_NEVER_STARTS = re.compile(
    r"Partition(Time|Node)Limit|BadConstraints|DependencyNeverSatisfied"
    r"|(Assoc|QOS)Max\w*Per(Job|Node)\w*|QOSMin\w+"
    r"|Invalid(Account|QOS)|(Account|QOS)NotAllowed|launch failed requeued held",
    re.ASCII,
)


def never_starts(pending: str) -> bool:
    """Whether a job that waits for this reason stays where it is until somebody changes it."""
    return _NEVER_STARTS.fullmatch(pending) is not None


_UNKNOWN = Meaning(JobState.RUNNING, known=False)


def meaning(word: str) -> Meaning:
    """What a state word says; a word this table does not have is never an ending."""
    return STATES.get(word, _UNKNOWN)
