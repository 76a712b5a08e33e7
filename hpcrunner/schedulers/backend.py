"""A Scheduler of two parts: one submits, the other says what became of the jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hpcrunner.batch.batch import Batch
from hpcrunner.schedulers.contract import Job, Sighting, Sought, Submission


class Submitter(Protocol):
    """One way to submit."""

    @property
    def name(self) -> str:
        """See Scheduler.name."""
        ...

    def submit(self, batch: Batch) -> Submission:
        """See Scheduler.submit."""
        ...

    def close(self) -> None:
        """See Scheduler.close."""
        ...


class Witness(Protocol):
    """The scheduler as its own commands show it."""

    def look_up(self, jobs: Sequence[Job], since: float) -> Mapping[Job, Sighting]:
        """See Scheduler.look_up."""
        ...

    def seek(self, batches: Sequence[Batch], since: float) -> Mapping[str, Sought]:
        """See Scheduler.seek."""
        ...

    def cancel(self, jobs: Sequence[Job]) -> None:
        """See Scheduler.cancel."""
        ...

    def changed(self) -> None:
        """Something is about to be submitted: answers from before are stale."""
        ...


@dataclass(frozen=True, slots=True)
class Backend:
    """What is submitted by ``submitter`` is looked up and cancelled by ``witness``."""

    submitter: Submitter
    witness: Witness

    @property
    def name(self) -> str:
        """See Scheduler.name."""
        return self.submitter.name

    def submit(self, batch: Batch) -> Submission:
        """See Scheduler.submit."""
        self.witness.changed()
        return self.submitter.submit(batch)

    def seek(self, batches: Sequence[Batch], since: float) -> Mapping[str, Sought]:
        """See Scheduler.seek."""
        return self.witness.seek(batches, since)

    def look_up(self, jobs: Sequence[Job], since: float) -> Mapping[Job, Sighting]:
        """See Scheduler.look_up."""
        return self.witness.look_up(jobs, since)

    def cancel(self, jobs: Sequence[Job]) -> None:
        """See Scheduler.cancel."""
        self.witness.cancel(jobs)

    def close(self) -> None:
        """See Scheduler.close."""
        self.submitter.close()
