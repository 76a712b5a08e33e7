"""qdel(1): delete jobs and tasks."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from hpcrunner.schedulers.command import Completed
from hpcrunner.schedulers.contract import SchedulerUnavailable
from hpcrunner.schedulers.tasks import ranges

_WORDS_A_CALL = 1000
# What it says of jobs that are over, or about to be.
_NO_MATTER = re.compile(r"does not exist|do not exist|is already in deletion|There (is|are) no job")


def argvs(job_ids: Sequence[str]) -> Iterator[list[str]]:
    """The calls that delete these jobs, tasks of an array by ranges."""
    tasks: defaultdict[str, list[int]] = defaultdict(list)
    words = []
    for job_id in job_ids:
        base, _, task = job_id.partition(".")
        if task:
            tasks[base].append(int(task))
        else:
            words.append(base)
    for base, numbers in tasks.items():
        words += [f"{base}.{part}" for part in ranges(numbers).split(",")]
    for start in range(0, len(words), _WORDS_A_CALL):
        yield ["qdel", *words[start : start + _WORDS_A_CALL]]


def parse(completed: Completed) -> None:
    """Raises SchedulerUnavailable where it could not be asked; ended jobs are no error."""
    if completed.returncode == 0:
        return
    lines = [*completed.stdout.splitlines(), *completed.stderr.splitlines()]
    bad = [
        line
        for line in lines
        if re.search(r"error|denied|unable", line) and not _NO_MATTER.search(line)
    ]
    if bad or not any(_NO_MATTER.search(line) for line in lines):
        said = bad[0][:200] if bad else f"ended with {completed.returncode}"
        raise SchedulerUnavailable(
            f"failed ({said})", where="qdel", remedy="is the master up (qconf -sss)?"
        )
