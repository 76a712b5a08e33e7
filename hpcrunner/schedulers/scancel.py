"""scancel(1): end jobs; those that are gone already are no error."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from hpcrunner.schedulers.command import Completed
from hpcrunner.schedulers.contract import SchedulerUnavailable
from hpcrunner.schedulers.tasks import ranges

_WORDS_A_CALL = 200
_WORD_LENGTH = 1000  # Slurm reads an array's list of tasks into a buffer of a few kilobytes
_JOB = re.compile(r"(\d+)(?:_(\d+))?", re.ASCII)
_GONE = re.compile(
    r"Invalid job id specified|already (completing or )?completed|Job has already finished"
    r"|not in the queue|Kill job error on job id \S+: (?:Job/step )?already"
)


def argvs(job_ids: Sequence[str]) -> Iterator[list[str]]:
    """Calls that end these jobs: tasks of an array together, a bounded number of words each."""
    words = list(_words(job_ids))
    for start in range(0, len(words), _WORDS_A_CALL):
        yield ["scancel", *words[start : start + _WORDS_A_CALL]]


def parse(completed: Completed) -> None:
    """Raises SchedulerUnavailable where scancel failed for another reason than "it is gone"."""
    troubles = [
        line.strip()
        for line in completed.stderr.splitlines()
        if line.strip() and not _GONE.search(line)
    ]
    if completed.returncode != 0 and (troubles or not completed.stderr.strip()):
        raise SchedulerUnavailable(
            f"failed ({troubles[0][:200] if troubles else completed.returncode})",
            where="scancel",
            remedy="the cancel is asked for again",
        )


def _words(job_ids: Sequence[str]) -> Iterator[str]:
    arrays: dict[str, list[int]] = {}
    for job_id in dict.fromkeys(job_ids):
        match = _JOB.fullmatch(job_id)
        if match is None:
            continue  # never one of Slurm's, so nothing of Slurm's is to be ended
        if match[2] is None:
            yield match[1]
        else:
            arrays.setdefault(match[1], []).append(int(match[2]))
    for base, tasks in arrays.items():
        part = ""
        for piece in ranges(tasks).split(","):
            if part and len(part) + len(piece) > _WORD_LENGTH:
                yield f"{base}_[{part}]"
                part = ""
            part = f"{part},{piece}" if part else piece
        yield f"{base}_[{part}]"
