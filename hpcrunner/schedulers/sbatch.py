"""sbatch(1): a batch as one job or one array."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hpcrunner.batch.batch import Batch
from hpcrunner.schedulers.answers import Answer, refused
from hpcrunner.schedulers.command import Completed
from hpcrunner.schedulers.contract import SubmitUncertain
from hpcrunner.schedulers.refusals import answer_of, in_words

_ID = re.compile(r"(\d+)(?:;[A-Za-z0-9_.-]+)?", re.ASCII)


def argv(batch: Batch, options: Sequence[str]) -> list[str]:
    """The submission of ``batch``; ``options`` are what it asks for, its name included.

    The login node's limits are not handed on to the job (``--propagate``), and a requeued job
    keeps its earlier output (``--open-mode``).
    """
    fixed = ("--open-mode=append", "--propagate=NONE")
    return ["sbatch", "--parsable", *options, *fixed, str(batch.script)]


def parse(completed: Completed) -> str:
    """The job id in the answer.

    Raises SubmitRefused for words that Slurm says only of a job it did not take, and
    SubmitUncertain for everything else that is not a job id.
    """
    lines = [line.strip() for line in completed.stdout.splitlines() if line.strip()]
    match = _ID.fullmatch(lines[-1]) if lines else None
    if completed.returncode == 0 and match:
        return match[1]
    words = in_words(completed.stderr)
    if completed.returncode != 0 and not match:
        answer = answer_of(completed.stderr)
        if answer is not Answer.UNCERTAIN:
            raise refused(words, answer, where="sbatch")
    raise SubmitUncertain(
        f"ended with {completed.returncode} and no job id ({words or 'no word why'})",
        where="sbatch",
        remedy="the batch is looked up by its name",
    )
