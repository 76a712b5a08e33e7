"""qstat(1): what the master knows of the user's jobs, the recently ended included."""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from xml.parsers import expat

from hpcrunner.batch.batch import NAME_PREFIX
from hpcrunner.schedulers.command import Completed
from hpcrunner.schedulers.contract import Job, SchedulerUnavailable
from hpcrunner.schedulers.tasks import indexes

_OURS = re.compile(rf"{NAME_PREFIX}[0-9a-f]+", re.ASCII)
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
_STATE = re.compile(r"[A-Za-z]{1,8}", re.ASCII)
# What XML cannot hold; other jobs of the user may be called anything.
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")
_NO_STATE = re.compile(r"(wrong|invalid).* (argument|option).*-s\b|argument to -s option")
_COLUMNS = frozenset(
    {
        "JB_job_number",
        "JB_name",
        "state",
        "JAT_start_time",
        "queue_name",
        "tasks",
    }
)


@dataclass(frozen=True, slots=True)
class LiveJob:
    """A job, or one task of an array, in the master's memory.

    ``started_at`` is None while it waits, and of one that is over.
    """

    base: str
    task: int | None
    name: str
    word: str
    started_at: float | None
    node: str

    @property
    def job_id(self) -> str:
        """``123`` or ``123.4``, as DRMAA writes them."""
        return self.base if self.task is None else f"{self.base}.{self.task}"


# The letters of ``-s`` for jobs that are just over: zombies, or finished ones where there are no
# zombies any more (Open Cluster Scheduler from 9.2 on).
ENDED = ("z", "f")


def argv(user: str, ended: str) -> tuple[str, ...]:
    """One query for all of the user's jobs: waiting, running, suspended, and just over.

    ``-g d`` gives each task of an array a row. ``ended`` is one of ``ENDED``.
    """
    return ("qstat", "-xml", "-g", "d", "-s", f"prs{ended}", "-u", user)


def knows_no_such_state(completed: Completed) -> bool:
    """Whether it was refused for a letter of ``-s``."""
    said = completed.stdout + completed.stderr
    return completed.returncode != 0 and _NO_STATE.search(said) is not None


def parse(completed: Completed) -> list[LiveJob]:
    """Our jobs in the answer; an empty list is an answer too.

    Raises SchedulerUnavailable where qstat failed, or a row of ours cannot be read: one that is
    skipped would look like a job that is gone.
    """
    if completed.returncode != 0 or not completed.stdout:
        said = completed.stderr.strip().partition("\n")[0][:200] or str(completed.returncode)
        raise SchedulerUnavailable(
            f"failed ({said})",
            where="qstat",
            remedy="is the master up (qconf -sss), and is SGE_ROOT set as settings.sh sets it?",
        )
    return [
        job
        for row in _rows(completed.stdout)
        if _OURS.fullmatch(row.get("JB_name", ""))
        for job in _jobs(row)
    ]


def by_job(rows: Sequence[LiveJob]) -> dict[Job, LiveJob]:
    """The rows by id and name."""
    return {Job(row.job_id, row.name): row for row in rows}


def _jobs(row: dict[str, str]) -> list[LiveJob]:
    base, word = row.get("JB_job_number", ""), row.get("state", "")
    tasks = indexes(row["tasks"]) if row.get("tasks") else None
    if (
        not _NUMBER.fullmatch(base)
        or not _STATE.fullmatch(word)
        or (row.get("tasks") and not tasks)
    ):
        raise _of_another_form(str(row))
    start = row.get("JAT_start_time", "")
    return [
        LiveJob(
            base=base,
            task=task,
            name=row["JB_name"],
            word=word,
            started_at=_time(start) if start else None,
            node=row.get("queue_name", "").partition("@")[2],
        )
        for task in (sorted(tasks) if tasks else [None])
    ]


def _time(text: str) -> float:
    """``2026-11-21T20:11:26``, in UTC as we asked for it."""
    try:
        return float(timegm(datetime.fromisoformat(text).utctimetuple()))
    except ValueError as error:
        raise _of_another_form(text) from error


def _rows(text: str) -> list[dict[str, str]]:
    """The text of the columns of each ``job_list``. No entity and no other file is ever read."""
    rows: list[dict[str, str]] = []
    column: list[str] = []

    def begin(name: str, _attributes: dict[str, str]) -> None:
        column[:] = [name] if name in _COLUMNS else []
        if name == "job_list":
            rows.append({})

    def characters(data: str) -> None:
        if column and rows:
            rows[-1][column[0]] = rows[-1].get(column[0], "") + data

    def end(_name: str) -> None:
        column.clear()

    def refuse(*_: object) -> None:
        raise _of_another_form("a document type")

    parser = expat.ParserCreate()
    parser.StartElementHandler = begin
    parser.CharacterDataHandler = characters
    parser.EndElementHandler = end
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(_NOT_XML.sub("?", text), True)
    except expat.ExpatError as error:
        raise _of_another_form(str(error)) from error
    return rows


def _of_another_form(what: str) -> SchedulerUnavailable:
    return SchedulerUnavailable(
        f"printed something of another form ({what[:200]})",
        where="qstat",
        remedy="is qstat a wrapper script here?",
    )
