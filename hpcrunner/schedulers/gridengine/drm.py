"""Grid Engine behind its own libdrmaa, as DrmaaSubmitter needs to know it."""

from __future__ import annotations

import re
from collections.abc import Callable

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.drmaa import DrmaaJob
from hpcrunner.schedulers.drm import Drm
from hpcrunner.schedulers.gridengine.refusals import answer_of, in_words

_ID = re.compile(r"\d+(?:\.\d+)?", re.ASCII)


def gridengine_drm(drmaa_job: Callable[[Batch], DrmaaJob]) -> Drm:
    """The DRM with these texts for a batch."""
    return Drm(drmaa_job, _job_id, answer_of, in_words)


def _job_id(text: str) -> str | None:
    """``123`` or ``123.4``."""
    return text if _ID.fullmatch(text) else None
