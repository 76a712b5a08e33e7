"""The ``drmaa`` backend: submissions through a DRMAA library, everything else by commands.

DRMAA's own jobStatus and wait are not asked: they call a cancelled job a success, and a purged
one whatever was seen last.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.native import NativeRefused, output_pattern, remote_command
from hpcrunner.schedulers import sbatch
from hpcrunner.schedulers.contract import (
    Job,
    Sighting,
    Sought,
    Submission,
    SubmitRefused,
    SubmitUncertain,
)
from hpcrunner.schedulers.drmaa_session import ChildLost, DrmaaRefusal, DrmaaSession
from hpcrunner.schedulers.refusals import Answer, answer_of, in_words
from hpcrunner.schedulers.slurm import Slurm

_ID = re.compile(r"(\d+(?:_\d+)?)(?:\.[A-Za-z0-9_-]+)?", re.ASCII)

# Of these slurm-drmaa and the DRMAA specification say that nothing was submitted. All others,
# InternalException first, may come after the controller has taken the job.
_NEVER = frozenset(
    {
        "AuthorizationException",
        "ConflictingAttributeValuesException",
        "InvalidArgumentException",
        "InvalidAttributeFormatException",
        "InvalidAttributeValueException",
        "InvalidJobTemplateException",
        "UnsupportedAttributeException",
    }
)


@dataclass(slots=True)
class DrmaaScheduler:
    """Submit by DRMAA; ``native_specification`` gives a batch's resources in its words."""

    slurm: Slurm
    session: DrmaaSession
    native_specification: Callable[[Batch], str]
    name: str = field(default="drmaa", init=False)

    def submit(self, batch: Batch) -> Submission:
        """See Scheduler.submit."""
        try:
            native = self.native_specification(batch)
        except NativeRefused as error:
            raise SubmitRefused(error.what, where=error.where, remedy=error.remedy) from error
        self.slurm.listing.clear()
        try:
            ids = self.session.submit(
                name=batch.name,
                script=remote_command(batch),
                folder=str(batch.folder),
                output=output_pattern(batch),
                native=native,
                size=batch.size,
                timeout=self.slurm.patience.submit,
            )
        except ChildLost as error:
            raise _uncertain(error.what) from error
        except DrmaaRefusal as error:
            raise _judged(error) from error
        matches = [_ID.fullmatch(job_id) for job_id in ids]
        job_ids = tuple(match[1] for match in matches if match)
        if len(job_ids) != batch.size:
            raise _uncertain(f"answered {len(ids)} ids for {batch.size} tasks")
        return Submission(job_ids)

    def seek(self, batches: Sequence[Batch], since: float) -> Mapping[str, Sought]:
        """See Scheduler.seek."""
        return self.slurm.seek(batches, since)

    def look_up(self, jobs: Sequence[Job], since: float) -> Mapping[Job, Sighting]:
        """See Scheduler.look_up."""
        return self.slurm.look_up(jobs, since)

    def cancel(self, jobs: Sequence[Job]) -> None:
        """See Scheduler.cancel."""
        self.slurm.cancel(jobs)

    def close(self) -> None:
        """End the child that holds the session."""
        self.session.close()


def _judged(error: DrmaaRefusal) -> SubmitRefused | SubmitUncertain:
    """What a DRMAA exception says of the submission."""
    words = re.sub(r"^code \d+: ", "", error.text)
    if not error.sent:
        # The library, or its session, could not be had: nothing of the batch is to blame.
        blamed = error.kind in _NEVER
        return sbatch.refused(
            f"{error.kind}: {words}", Answer.NEVER if blamed else Answer.NOT_NOW, where="drmaa"
        )
    if error.kind in _NEVER:
        return sbatch.refused(in_words(words), Answer.NEVER, where="drmaa")
    if error.kind in ("TryLaterException", "NoActiveSessionException"):
        return sbatch.refused(in_words(words), Answer.NOT_NOW, where="drmaa")
    if error.kind == "DeniedByDrmException":
        # The controller's own no; of its reasons only some pass.
        answer = answer_of(words)
        may_pass = answer in (Answer.NOT_NOW, Answer.DOUBTFUL)
        return sbatch.refused(in_words(words), answer if may_pass else Answer.NEVER, where="drmaa")
    return _uncertain(f"{error.kind}: {words}")


def _uncertain(what: str) -> SubmitUncertain:
    return SubmitUncertain(what, where="drmaa", remedy="the batch is looked up by its name")
