"""What lies behind a DRMAA library: how a DRM is asked for a job, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.drmaa import DrmaaJob
from hpcrunner.schedulers.answers import Answer


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
