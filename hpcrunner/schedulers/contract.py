"""What every scheduler backend promises, and the types that cross that boundary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from hpcrunner.batch.batch import Batch
from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.reasons import Reason


class SubmitRefused(HpcrunnerError):
    """The scheduler said no, and nothing was submitted.

    ``passing`` is True where the same submission may be taken later (a submit limit reached,
    the controller away before anything was sent), False where it never will (no such partition).
    ``doubtful``: passing, but the same words are said of a job that never will be taken.
    """

    exit_code = 69  # EX_UNAVAILABLE

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        remedy: str = "",
        passing: bool = False,
        doubtful: bool = False,
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.passing = passing
        self.doubtful = doubtful


class SubmitUncertain(HpcrunnerError):
    """Nobody knows whether the job exists: look its name up before anything else is done."""

    exit_code = 75  # EX_TEMPFAIL


class SchedulerUnavailable(HpcrunnerError):
    """The scheduler could not be asked at all."""

    exit_code = 69  # EX_UNAVAILABLE


class Verdict(Enum):
    """What one witness could say of one job."""

    FOUND = "FOUND"
    NOT_FOUND = "NOT_FOUND"
    UNAVAILABLE = "UNAVAILABLE"


class JobState(Enum):
    """Where a found job stands, in no scheduler's dialect. States only move down this list."""

    QUEUED = "QUEUED"  # waiting, held, or requeued
    RUNNING = "RUNNING"  # running or suspended
    COMPLETING = "COMPLETING"  # ended on the node, not yet for the scheduler
    ENDED = "ENDED"  # final for the scheduler


@dataclass(frozen=True, slots=True)
class Submission:
    """A batch as the scheduler knows it: one job id a task, in index order from task 1."""

    job_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """One task as the scheduler knows it: its id, and the name of its batch.

    Ids come again: a controller that is killed soon after a submission forgets it, and gives the
    next one the same id. Names never do.
    """

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Sighting:
    """What the scheduler said of one job.

    ``state`` is None unless FOUND. ``word`` is the scheduler's own state word, for people.
    ``reason`` is set once ENDED: COMPLETED, or why not. ``pending`` is the scheduler's reason
    for a queued job, ``stuck`` is True where that reason does not pass by itself. ``accounted``
    is True where accounting (not only the live queue) said so. ``gone`` is True for an
    UNAVAILABLE one that the live queue, asked and healthy, does not know: only accounting could
    not be asked. Times are epoch seconds, None where the witness does not know.
    """

    verdict: Verdict
    state: JobState | None = None
    word: str = ""
    reason: Reason | None = None
    exit_code: int | None = None
    signal: int | None = None
    node: str = ""
    pending: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    stuck: bool = False
    accounted: bool = False
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Sought:
    """The answer to "does a batch of this name exist?": ``submission`` only where FOUND."""

    verdict: Verdict
    submission: Submission | None = None


class Scheduler(Protocol):
    """A backend. All methods are bounded in time; none is called from two threads at once."""

    @property
    def name(self) -> str:
        """``drmaa``, ``sbatch``, ``gridengine`` or ``local``."""
        ...

    def submit(self, batch: Batch) -> Submission:
        """Submit a batch whose folder and script are already on disk.

        Raises SubmitRefused (nothing was submitted) or SubmitUncertain (look it up first).
        """
        ...

    def seek(self, batches: Sequence[Batch], since: float) -> Mapping[str, Sought]:
        """Look batches up by their names, first live, then in accounting from ``since`` (epoch).

        One answer for each batch's id, by a bounded number of queries whatever the count.
        NOT_FOUND only where every witness the site has answered and none knows the name.
        """
        ...

    def look_up(self, jobs: Sequence[Job], since: float) -> Mapping[Job, Sighting]:
        """One sighting for each job asked for; a bounded number of queries whatever the count.

        ``since`` (epoch) is no later than the oldest of these jobs' submission.
        """
        ...

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Ask the scheduler to end these jobs; unknown and ended ones are no error.

        Raises SchedulerUnavailable where it could not be asked.
        """
        ...

    def close(self) -> None:
        """Let go of child processes and sessions; running jobs stay."""
        ...
