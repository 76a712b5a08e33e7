"""Submissions through a DRMAA library; everything else is asked by the DRM's own commands.

DRMAA's own jobStatus and wait are not asked: through slurm-drmaa they call a cancelled job a
success, and a purged one whatever was seen last; and with any library they forget all at a
restart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.drmaa import NativeRefused
from hpcrunner.schedulers.answers import Answer, refused
from hpcrunner.schedulers.contract import (
    Submission,
    SubmitRefused,
    SubmitUncertain,
)
from hpcrunner.schedulers.drm import Drm
from hpcrunner.schedulers.drmaa_session import ChildLost, DrmaaRefusal, DrmaaSession
from hpcrunner.schedulers.overheard import with_printed

# Of these the libraries and the DRMAA specification say that nothing was submitted.
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
_NOT_NOW = frozenset({"TryLaterException", "NoActiveSessionException"})


@dataclass(slots=True)
class DrmaaSubmitter:
    """Submit through ``session``; ``timeout`` is for a submission, in seconds."""

    session: DrmaaSession
    drm: Drm
    name: str = "drmaa"
    timeout: float = 30.0

    def submit(self, batch: Batch) -> Submission:
        """See Scheduler.submit."""
        try:
            job = self.drm.drmaa_job(batch)
        except NativeRefused as error:
            raise SubmitRefused(error.what, where=error.where, remedy=error.remedy) from error
        try:
            ids = self.session.submit(
                name=batch.name,
                script=job.command,
                folder=str(batch.folder),
                output=job.output,
                native=job.native,
                size=batch.size,
                timeout=self.timeout,
            )
        except ChildLost as error:
            raise _uncertain(error.what) from error
        except DrmaaRefusal as error:
            raise self._judged(error) from error
        job_ids = tuple(read for text in ids if (read := self.drm.job_id(text)) is not None)
        if len(job_ids) != batch.size:
            raise _uncertain(f"answered {len(ids)} ids for {batch.size} tasks")
        return Submission(job_ids)

    def close(self) -> None:
        """End the child that holds the session."""
        self.session.close()

    def _judged(self, error: DrmaaRefusal) -> SubmitRefused | SubmitUncertain:
        """What a DRMAA exception says of the submission."""
        words = re.sub(r"^code \d+: ", "", error.text)
        named = with_printed(f"{error.kind}: {words}", error.printed)
        if not error.sent:
            # The library, or its session, could not be had: nothing of the batch is to blame.
            answer = Answer.NEVER if error.kind in _NEVER else Answer.NOT_NOW
            return refused(named, answer, where="drmaa")
        if error.kind in _NEVER:
            answer = Answer.NEVER
        elif error.kind in _NOT_NOW:
            answer = Answer.NOT_NOW
        else:
            answer = self.drm.answer_of(error.kind, words)
        if answer is Answer.UNCERTAIN:
            return _uncertain(named)
        return refused(with_printed(self.drm.in_words(words), error.printed), answer, where="drmaa")


def _uncertain(what: str) -> SubmitUncertain:
    return SubmitUncertain(what, where="drmaa", remedy="the batch is looked up by its name")
