"""The ``pyslurm`` backend: submissions and the live queue by pyslurm, the rest by commands.

Endings are sacct's word here too: what pyslurm.db says of a job differs from version to version,
and one sacct a look costs little.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hpcrunner.batch.batch import NAME_PREFIX, Batch
from hpcrunner.batch.drmaa import NativeRefused
from hpcrunner.batch.pyslurm import job_description
from hpcrunner.schedulers.answers import Answer, refused
from hpcrunner.schedulers.backend import Backend
from hpcrunner.schedulers.child import CallFailed, Child, ChildLost
from hpcrunner.schedulers.contract import (
    SchedulerUnavailable,
    Submission,
    SubmitRefused,
    SubmitUncertain,
)
from hpcrunner.schedulers.interpreter import module_argv, other_argv
from hpcrunner.schedulers.overheard import with_printed
from hpcrunner.schedulers.refusals import answer_of, in_words
from hpcrunner.schedulers.slurm import Slurm, submission
from hpcrunner.schedulers.squeue import LiveJob
from hpcrunner.sites.site import Site

log = logging.getLogger(__name__)

_CHILD = "hpcrunner.schedulers.pyslurm_child"
_HELLO_TIMEOUT = 30.0


@dataclass(slots=True)
class PyslurmSubmitter:
    """Submit by pyslurm in ``child``; ``describe`` gives a batch's attributes in its names."""

    child: Child
    describe: Callable[[Batch], Mapping[str, Any]]
    slurm: Slurm
    name: str = field(default="pyslurm", init=False)

    def submit(self, batch: Batch) -> Submission:
        """See Scheduler.submit."""
        try:
            job = self.describe(batch)
        except NativeRefused as error:
            raise SubmitRefused(error.what, where=error.where, remedy=error.remedy) from error
        try:
            answer = self.child.call({"call": "submit", "job": job}, self.slurm.patience.submit)
        except ChildLost as error:
            raise _uncertain(error.what) from error
        except CallFailed as error:
            raise _judged(error) from error
        job_id = answer.get("id")
        if not isinstance(job_id, int) or job_id <= 0:
            raise _uncertain("an answer of another form")
        return submission(batch, str(job_id))

    def close(self) -> None:
        """End the child."""
        self.child.close()


def open_pyslurm(site: Site, slurm: Slurm) -> Backend:
    """The backend, once its pyslurm is seen to fit. Raises SchedulerUnavailable."""
    python = site.pyslurm.python
    child = Child("pyslurm", other_argv(python, _CHILD) if python else module_argv(_CHILD))
    try:
        _check(child, python or "hpcrunner's own Python", _version(slurm))
    except SchedulerUnavailable:
        child.close()
        raise
    slurm.live = lambda: live_jobs(child, slurm.patience.query)
    submitter = PyslurmSubmitter(child, lambda batch: job_description(batch, site), slurm)
    return Backend(submitter, slurm)


def _version(slurm: Slurm) -> str:
    """The cluster's Slurm, "" while it cannot be asked."""
    try:
        return slurm.config().version
    except SchedulerUnavailable:
        return ""


def _check(child: Child, python: str, cluster: str) -> None:
    """See that the pyslurm of that Python can be loaded and is made for the cluster's Slurm."""
    try:
        answer = child.call({"call": "hello"}, _HELLO_TIMEOUT)
    except (ChildLost, CallFailed) as error:
        raise SchedulerUnavailable(
            f"{python} cannot load it ({error.what})",
            where="pyslurm",
            remedy="name a Python that has pyslurm with the key pyslurm.python, or set "
            "scheduler: sbatch",
        ) from error
    mine, linked = str(answer.get("pyslurm", "")), str(answer.get("slurm", ""))
    theirs = cluster or linked
    if not theirs or release(mine) != release(theirs):
        raise SchedulerUnavailable(
            f"version {mine} is made for Slurm {'.'.join(mine.split('.')[:2])}, and Slurm here is "
            f"{theirs or 'unknown'}",
            where="pyslurm",
            remedy="build the pyslurm of that release (major and minor must be equal) and name "
            "its Python with the key pyslurm.python, or set scheduler: sbatch",
        )
    log.info("scheduler pyslurm: %s of %s, Slurm %s", mine, python, theirs)


def release(version: str) -> tuple[int, ...]:
    """Major and minor of a version; pyslurm writes 22.5 for Slurm's 22.05."""
    numbers = []
    for part in version.split(".")[:2]:
        digits = "".join(c for c in part if c.isdecimal())
        numbers.append(int(digits) if digits else -1)
    return tuple(numbers)


def live_jobs(child: Child, timeout: float) -> list[LiveJob]:
    """Our jobs that the controller knows. Raises SchedulerUnavailable."""
    try:
        answer = child.call({"call": "jobs", "prefix": NAME_PREFIX}, timeout)
    except (ChildLost, CallFailed) as error:
        raise SchedulerUnavailable(
            f"failed ({error.what})",
            where="pyslurm",
            remedy="is the Slurm controller up (scontrol ping)?",
        ) from error
    try:
        return [_job(*row) for row in answer["jobs"]]
    except (KeyError, TypeError, ValueError) as error:
        raise SchedulerUnavailable("an answer of another form", where="pyslurm") from error


def _job(
    base: int, index: int | None, name: str, word: str, start: float, node: str, pending: str
) -> LiveJob:
    number = None if index is None else int(index)
    started = float(start) if start else None
    return LiveJob(str(int(base)), number, name, word, started, node, pending)


def _judged(error: CallFailed) -> SubmitRefused | SubmitUncertain:
    """What an exception says of the submission."""
    if not error.sent:
        blamed = error.kind in ("ValueError", "TypeError", "KeyError", "AttributeError")
        answer = Answer.NEVER if blamed else Answer.NOT_NOW
        return refused(error.what, answer, where="pyslurm")
    answer = answer_of(error.text) if error.kind == "RPCError" else Answer.UNCERTAIN
    if answer is Answer.UNCERTAIN:
        return _uncertain(error.what)
    words = with_printed(in_words(error.text), error.printed)
    return refused(words, answer, where="pyslurm")


def _uncertain(what: str) -> SubmitUncertain:
    return SubmitUncertain(what, where="pyslurm", remedy="the batch is looked up by its name")
