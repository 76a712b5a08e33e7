"""A scheduler that tells how long each of its answers took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from hpcrunner.batch.batch import Batch
from hpcrunner.gateway.happenings import Asked, Tell
from hpcrunner.schedulers.contract import (
    Job,
    Scheduler,
    SchedulerUnavailable,
    Sighting,
    Sought,
    Submission,
    SubmitUncertain,
    Verdict,
)


class Measured:
    """A Scheduler around another. ``clock`` is a steady clock in seconds."""

    def __init__(
        self, scheduler: Scheduler, tell: Tell, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._scheduler = scheduler
        self._tell = tell
        self._clock = clock

    @property
    def name(self) -> str:
        """See Scheduler.name."""
        return self._scheduler.name

    def submit(self, batch: Batch) -> Submission:
        """See Scheduler.submit. A refusal is an answer, an uncertain one is none."""
        with self._measured("submit"):
            return self._scheduler.submit(batch)

    def seek(self, batches: Sequence[Batch], since: float) -> Mapping[str, Sought]:
        """See Scheduler.seek."""
        with self._measured("seek") as answers:
            found = self._scheduler.seek(batches, since)
            answers.extend(sought.verdict for sought in found.values())
            return found

    def look_up(self, jobs: Sequence[Job], since: float) -> Mapping[Job, Sighting]:
        """See Scheduler.look_up."""
        with self._measured("look_up") as answers:
            found = self._scheduler.look_up(jobs, since)
            answers.extend(sighting.verdict for sighting in found.values())
            return found

    def cancel(self, jobs: Sequence[Job]) -> None:
        """See Scheduler.cancel."""
        with self._measured("cancel"):
            self._scheduler.cancel(jobs)

    def close(self) -> None:
        """See Scheduler.close."""
        self._scheduler.close()

    @contextmanager
    def _measured(self, call: str) -> Iterator[list[Verdict]]:
        answers: list[Verdict] = []
        answered = True
        began = self._clock()
        try:
            yield answers
        except (SubmitUncertain, SchedulerUnavailable):
            answered = False
            raise
        finally:
            answered = answered and Verdict.UNAVAILABLE not in answers
            self._tell(Asked(call, self._clock() - began, answered))
