"""Slurm behind slurm-drmaa, as DrmaaSubmitter needs to know it."""

from __future__ import annotations

import re
from collections.abc import Callable

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.drmaa import DrmaaJob
from hpcrunner.schedulers.answers import Answer
from hpcrunner.schedulers.drm import Drm
from hpcrunner.schedulers.refusals import answer_of, in_words

_ID = re.compile(r"(\d+(?:_\d+)?)(?:\.[A-Za-z0-9_-]+)?", re.ASCII)


def slurm_drm(drmaa_job: Callable[[Batch], DrmaaJob]) -> Drm:
    """The DRM with these texts for a batch."""
    return Drm(drmaa_job, _job_id, _answer_of, in_words)


def _job_id(text: str) -> str | None:
    """``123`` or ``123_4``, which a federation's library follows by the cluster's name."""
    match = _ID.fullmatch(text)
    return match[1] if match else None


def _answer_of(kind: str, words: str) -> Answer:
    if kind != "DeniedByDrmException":
        # InternalException first: they may come after the controller has taken the job.
        return Answer.UNCERTAIN
    # The controller's own no; of its reasons only some pass.
    answer = answer_of(words)
    return answer if answer in (Answer.NOT_NOW, Answer.DOUBTFUL) else Answer.NEVER
