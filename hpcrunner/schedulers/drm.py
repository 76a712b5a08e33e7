"""What lies behind a DRMAA library: how a DRM is asked for a job, what it answers, who is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.drmaa import DrmaaJob
from hpcrunner.schedulers.answers import Answer
from hpcrunner.schedulers.contract import Job, Sighting, Sought


class Witness(Protocol):
    """The DRM as its own commands show it."""

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
class Drm:
    """``drmaa_job`` raises NativeRefused. ``job_id`` reads an id of the library's, None where it
    is none. ``answer_of`` says what a DRMAA exception, by its class and text, means where the
    DRMAA specification leaves that open; ``in_words`` makes one line for people of the text.
    """

    drmaa_job: Callable[[Batch], DrmaaJob]
    job_id: Callable[[str], str | None]
    answer_of: Callable[[str, str], Answer]
    in_words: Callable[[str], str]
