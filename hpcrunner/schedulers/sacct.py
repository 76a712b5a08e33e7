"""sacct(1): what accounting knows, steps included, since a job's own word can hide a step's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter

from hpcrunner.schedulers.command import Completed
from hpcrunner.schedulers.contract import Job, SchedulerUnavailable
from hpcrunner.schedulers.tasks import indexes

# The name comes last: it may hold anything, "|" included.
_FORMAT = "JobID,State,ExitCode,Submit,Start,End,NodeList,JobName"
_TIME = r"\d+|Unknown|None|N/A|"
_ROW = re.compile(
    r"(?P<base>\d+)(?:_(?P<index>\d+)|_\[(?P<tasks>[^\]|]*)\])?(?:\+\d+)?(?P<step>\.[^|]+)?"
    r"\|(?P<word>[A-Z_]+)\+?(?: by \S+)?\|(?:(?P<exit>\d+):(?P<signal>\d+))?"
    rf"\|(?P<submit>{_TIME})\|(?P<start>{_TIME})\|(?P<end>{_TIME})\|(?P<node>[^|]*)\|(?P<name>.*)",
    re.ASCII,
)
# Without a list of states, sacct leaves out what never became eligible: a job that was held
# until it was cancelled. These are the base states, without the flags that came and went.
_ALL_STATES = "BF,CA,CD,DL,F,NF,OOM,PD,PR,R,S,TO"
_SKEW = 3600  # s that this clock may be ahead of the controller's
_NAMES_A_CALL = 5_000
_IDS_A_CALL = 10_000  # one word of argv holds 128 KiB; an id takes up to 11 of them


@dataclass(frozen=True, slots=True)
class AccountedJob:
    """A job, or one task of an array, as accounting has it.

    ``step_words`` are the states of its steps. ``signal`` is what ended the batch script.
    """

    base: str
    index: int | None
    name: str
    word: str
    exit_code: int
    signal: int
    submitted_at: float | None
    started_at: float | None
    ended_at: float | None
    node: str
    step_words: frozenset[str] = frozenset()


# The tasks that a row stands for, None where the list is cut short; and the row.
Waiting = tuple[frozenset[int] | None, AccountedJob]


@dataclass(frozen=True, slots=True)
class Accounts:
    """The answer by job id; ``waiting`` has, by array, the rows that stand for many tasks.

    ``arrays`` has every array with its name and the time when it was submitted.
    """

    jobs: Mapping[str, AccountedJob] = field(default_factory=dict)
    waiting: Mapping[str, tuple[Waiting, ...]] = field(default_factory=dict)
    arrays: Mapping[str, tuple[str, float]] = field(default_factory=dict)

    def all(self) -> list[AccountedJob]:
        """Every row but those of steps."""
        return [*self.jobs.values(), *(job for rows in self.waiting.values() for _, job in rows)]

    def find(self, job: Job) -> AccountedJob | None:
        """The row of ``123`` or ``123_4``: its own, or the one that stands for many."""
        own = self.jobs.get(job.id)
        if own is not None and own.name == job.name:
            return own
        base, _, index = job.id.partition("_")
        for tasks, row in self.waiting.get(base, ()):
            # None: the list was cut short, so it may hold any task without a row of its own.
            of_task = index.isdecimal() and (tasks is None or int(index) in tasks)
            if of_task and row.name == job.name:
                return row
        return None

    def removed(self, job: Job, since: float) -> bool:
        """Whether the array of this task is accounted, submitted after ``since``, without it.

        Slurm keeps no row of a task that was cancelled while it waited with others: it takes it
        out of the array, and neither squeue nor sacct says a word of it (seen with 22.05).
        """
        base, _, index = job.id.partition("_")
        name, submitted_at = self.arrays.get(base, ("", since - 1))
        recent = name == job.name and submitted_at >= since
        return bool(index) and recent and self.find(job) is None


def argvs(job_ids: Sequence[str]) -> Iterator[list[str]]:
    """The query for these jobs: one call, however many tasks their arrays have.

    Asking by id, not by a window of time, has no trouble with clocks, nor with jobs that
    accounting thinks were never eligible. Only ten thousand arrays need a second call.
    """
    bases = sorted({job_id.partition("_")[0] for job_id in job_ids}, key=int)
    for start in range(0, len(bases), _IDS_A_CALL):
        ids = ",".join(bases[start : start + _IDS_A_CALL])
        yield ["sacct", "--parsable2", "--noheader", f"--jobs={ids}", f"--format={_FORMAT}"]


def argvs_by_name(names: Sequence[str], since: float) -> Iterator[list[str]]:
    """The query for the jobs of these names submitted after ``since`` (epoch), without steps."""
    for start in range(0, len(names), _NAMES_A_CALL):
        chosen = ",".join(names[start : start + _NAMES_A_CALL])
        yield [
            *("sacct", "--parsable2", "--noheader", "--allocations", f"--name={chosen}"),
            *(f"--starttime=uts{int(since) - _SKEW}", "--endtime=now+1days"),
            *(f"--state={_ALL_STATES}", f"--format={_FORMAT}"),
        ]


def parse(completed: Completed) -> Accounts:
    """Read the answer. Raises SchedulerUnavailable where sacct failed or printed another form."""
    if completed.returncode != 0 or (not completed.stdout and "error" in completed.stderr):
        raise SchedulerUnavailable(
            f"failed ({completed.stderr.strip().partition(chr(10))[0][:200] or 'no word why'})",
            where="sacct",
            remedy="is slurmdbd up? A site without it has `accounting: none`",
        )
    jobs: dict[str, AccountedJob] = {}
    waiting: dict[str, tuple[Waiting, ...]] = {}
    arrays: dict[str, tuple[str, float]] = {}
    if completed.stdout and not completed.stdout.endswith("\n"):
        raise SchedulerUnavailable("its answer is cut short", where="sacct")
    for line in completed.stdout.split("\n"):
        if not line:
            continue
        match = _ROW.fullmatch(line)
        if match is None:
            raise SchedulerUnavailable(
                f"printed a row of another form ({line[:200]})",
                where="sacct",
                remedy="is sacct a wrapper script here?",
            )
        job = _job(match)
        if not match["step"] and (match["tasks"] is not None or job.index is not None):
            seen = arrays.get(job.base, ("", 0.0))
            arrays[job.base] = max(seen, (job.name, job.submitted_at or 0.0), key=itemgetter(1))
        if match["tasks"] is not None:
            waiting[job.base] = (*waiting.get(job.base, ()), (indexes(match["tasks"]), job))
            continue
        job_id = job.base if job.index is None else f"{job.base}_{job.index}"
        known = jobs.get(job_id)
        if match["step"]:
            if known is not None:
                jobs[job_id] = replace(known, step_words=known.step_words | {job.word})
        elif known is None or (known.submitted_at or 0) <= (job.submitted_at or 0):
            jobs[job_id] = job  # of a requeued job, or an id used again, the newest row counts
    return Accounts(jobs, waiting, arrays)


def merged(answers: Sequence[Accounts]) -> Accounts:
    """Several answers about different jobs as one."""
    jobs: dict[str, AccountedJob] = {}
    waiting: dict[str, tuple[Waiting, ...]] = {}
    arrays: dict[str, tuple[str, float]] = {}
    for answer in answers:
        jobs.update(answer.jobs)
        waiting.update(answer.waiting)
        arrays.update(answer.arrays)
    return Accounts(jobs, waiting, arrays)


def _job(match: re.Match[str]) -> AccountedJob:
    return AccountedJob(
        base=match["base"],
        index=int(match["index"]) if match["index"] else None,
        name=match["name"],
        word=match["word"],
        exit_code=int(match["exit"] or 0),
        signal=int(match["signal"] or 0),
        submitted_at=_time(match["submit"]),
        started_at=_time(match["start"]),
        ended_at=_time(match["end"]),
        node="" if match["node"] == "None assigned" else match["node"],
    )


def _time(text: str) -> float | None:
    return float(text) if text.isdecimal() else None
