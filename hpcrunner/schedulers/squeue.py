"""squeue(1): what the controller knows of the user's jobs, the recently ended included."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hpcrunner.batch.batch import NAME_PREFIX
from hpcrunner.schedulers.command import Completed
from hpcrunner.schedulers.contract import Job, SchedulerUnavailable

# The name comes last: other jobs of the user may be called anything, "|" included.
_FORMAT = "%F|%K|%T|%S|%N|%r|%j"
_ROW = re.compile(
    r"(?P<base>\d+)\|(?P<index>\d+|N/A)\|(?P<word>[A-Z_]+)\|(?P<start>\d+|N/A|Unknown)"
    rf"\|(?P<node>[^|]*)\|(?P<pending>.*)\|(?P<name>{NAME_PREFIX}[0-9a-f]+)",
    re.ASCII,
)
_OURS = re.compile(rf"\d+\|.*\|{NAME_PREFIX}[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class LiveJob:
    """A job, or one task of an array, in the controller's memory.

    ``started_at`` is an expectation while the job waits. ``pending`` is the reason column: free
    text, "None" where there is none.
    """

    base: str
    index: int | None
    name: str
    word: str
    started_at: float | None
    node: str
    pending: str

    @property
    def job_id(self) -> str:
        """``123`` or ``123_4``."""
        return self.base if self.index is None else f"{self.base}_{self.index}"


# One query for all of the user's jobs. ``--all`` shows those in hidden partitions too;
# ``--array`` gives waiting tasks a row each.
ARGV = (
    *("squeue", "--me", "--all", "--noheader", "--array", "--states=all"),
    f"--format={_FORMAT}",
)


def parse(completed: Completed) -> list[LiveJob]:
    """Our jobs in the answer; an empty list is an answer too.

    Raises SchedulerUnavailable where squeue failed, or where a row of ours cannot be read: a
    row that is skipped would look like a job that is gone.
    """
    if completed.returncode != 0 or (not completed.stdout and "error" in completed.stderr):
        raise SchedulerUnavailable(
            f"failed ({_first_line(completed.stderr) or completed.returncode})",
            where="squeue",
            remedy="is the Slurm controller up (scontrol ping)?",
        )
    if completed.stdout and not completed.stdout.endswith("\n"):
        raise SchedulerUnavailable("its answer is cut short", where="squeue")
    jobs = []
    for line in completed.stdout.split("\n"):
        match = _ROW.fullmatch(line)
        if match:
            jobs.append(_job(match))
        elif _OURS.fullmatch(line):
            raise SchedulerUnavailable(
                f"printed a row of another form ({line[:200]})",
                where="squeue",
                remedy="is squeue a wrapper script here?",
            )
    return jobs


def _job(match: re.Match[str]) -> LiveJob:
    start, index = match["start"], match["index"]
    return LiveJob(
        base=match["base"],
        index=int(index) if index.isdecimal() else None,
        name=match["name"],
        word=match["word"],
        started_at=float(start) if start.isdecimal() else None,
        node=match["node"],
        pending=match["pending"],
    )


def by_job(rows: Sequence[LiveJob]) -> dict[Job, LiveJob]:
    """The rows by id and name."""
    return {Job(row.job_id, row.name): row for row in rows}


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:200]
