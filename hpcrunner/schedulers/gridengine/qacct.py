"""qacct(1): what the accounting file knows of the user's runs that have ended.

A job that was started again has a row for each run. One that was deleted while it waited has
none, and no job has any before its end.
"""

from __future__ import annotations

import re
import time
from calendar import timegm
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from hpcrunner.batch.batch import NAME_PREFIX
from hpcrunner.schedulers.command import Completed
from hpcrunner.schedulers.contract import Job, SchedulerUnavailable
from hpcrunner.schedulers.gridengine.states import rescheduled

SKEW = 3600  # s that this clock may be ahead of the master's
_RULE = re.compile(r"^=+\s*$", re.MULTILINE)
_OURS = re.compile(rf"{NAME_PREFIX}[0-9a-f]+", re.ASCII)
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
_NONE = re.compile(
    r"^error: job (name|id) .* not found|^no jobs running since startup", re.MULTILINE
)
_SIZE = re.compile(r"([0-9.]+)([KMGT]?)B?", re.IGNORECASE | re.ASCII)
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
# Sun's and Son of Grid Engine; Univa and Altair; Open Cluster Scheduler.
_TIMES = (
    "%a %b %d %H:%M:%S %Y",
    "%m/%d/%Y %H:%M:%S.%f",
    "%m/%d/%Y %H:%M:%S",
    "%Y-%m-%d %H:%M:%S.%f",
)
# Who "deletes" a job that reached a limit, or that will be started again: user@host.
_DAEMONS = re.compile(r"(execd|qmaster)(@|$)")
_NOBODY = ("NONE", "")
_NEAR = 0.98  # a limit counts as reached a little below: usage is looked at now and then


@dataclass(frozen=True, slots=True)
class AccountedJob:
    """One run. ``over_time`` and ``over_memory``: it used what it had asked for at most."""

    base: str
    task: int | None
    name: str
    failed: int
    failed_text: str
    exit_status: int
    node: str
    started_at: float | None = None
    ended_at: float | None = None
    deleted: bool = False
    over_time: bool = False
    over_memory: bool = False

    @property
    def job_id(self) -> str:
        """``123`` or ``123.4``."""
        return self.base if self.task is None else f"{self.base}.{self.task}"


@dataclass(frozen=True, slots=True)
class Accounts:
    """The last run of each job, by id and name."""

    runs: Mapping[Job, AccountedJob] = field(default_factory=dict)

    def find(self, job: Job) -> AccountedJob | None:
        """How the job ended; None where it has not, or will be started again."""
        run = self.runs.get(job)
        return None if run is None or rescheduled(run.failed) else run


def argv(user: str, since: float) -> list[str]:
    """The query for runs that began after ``since`` (epoch), of jobs that may be ours."""
    begun = time.strftime("%Y%m%d%H%M", time.gmtime(max(since - SKEW, 0)))
    return ["qacct", "-o", user, "-b", begun, "-j", f"{NAME_PREFIX}*"]


def unbegun_argv(user: str) -> list[str]:
    """The query for runs that failed before they began: their start is 0, which ``-b`` hides."""
    return ["qacct", "-o", user, "-e", "197001020000", "-j", f"{NAME_PREFIX}*"]


def argv_of_file(user: str, file: str) -> list[str]:
    """The query for all that may be ours in another file of the same form."""
    return ["qacct", "-f", file, "-o", user, "-j", f"{NAME_PREFIX}*"]


def parse(completed: Completed) -> Accounts:
    """Read the answer. Raises SchedulerUnavailable where qacct failed or printed another form."""
    if _NONE.search(completed.stderr if completed.stderr.strip() else completed.stdout[:200]):
        return Accounts()
    blocks = _RULE.split(completed.stdout)
    if completed.returncode != 0 or len(blocks) < 2:
        said = completed.stderr.strip().partition("\n")[0][:200]
        raise SchedulerUnavailable(
            f"failed ({said or 'no word why'})",
            where="qacct",
            remedy="can this host read the accounting file? A site without has "
            "`accounting: {mode: none}`",
        )
    runs = {}
    for block in blocks[1:]:
        columns = _columns(block)
        # A parallel job has a row for each part that it started elsewhere, too.
        if _OURS.fullmatch(columns.get("jobname", "")) and columns.get("pe_taskid", "") in _NOBODY:
            run = _run(columns)
            runs[Job(run.job_id, run.name)] = run
    return Accounts(runs)


def _columns(block: str) -> dict[str, str]:
    pairs = (line.split(None, 1) for line in block.splitlines() if line.strip())
    return {pair[0]: pair[1].strip() if len(pair) > 1 else "" for pair in pairs}


def _run(columns: Mapping[str, str]) -> AccountedJob:
    base, task = columns.get("jobnumber", ""), columns.get("taskid", "")
    failed = _NUMBER.match(columns.get("failed", ""))
    status = _NUMBER.match(columns.get("exit_status", ""))
    of_array = _NUMBER.fullmatch(task) is not None
    if (
        not _NUMBER.fullmatch(base)
        or failed is None
        or status is None
        or not (of_array or task == "undefined")
    ):
        raise SchedulerUnavailable(
            f"printed a row of another form ({dict(columns)})"[:300],
            where="qacct",
            remedy="is qacct a wrapper script here?",
        )
    by = columns.get("deleted_by", "")
    start, end = _time(columns.get("start_time", "")), _time(columns.get("end_time", ""))
    asked = next(filter(None, (_asked(columns.get(name, "")) for name in _ASKED)), {})
    slots = _NUMBER.fullmatch(columns.get("slots", ""))
    memory = _size(columns.get("maxvmem", ""))
    limit = _size(asked.get("h_vmem", ""))
    allowed = _seconds(asked.get("h_rt", ""))
    return AccountedJob(
        base=base,
        # A job that is no array has 0 in the file, which qacct calls undefined.
        task=int(task) if of_array and task != "0" else None,
        name=columns["jobname"],
        failed=int(failed[0]),
        failed_text=columns["failed"].partition(":")[2].strip(),
        exit_status=int(status[0]),
        node=columns.get("hostname", ""),
        started_at=start,
        ended_at=end,
        deleted=by not in _NOBODY and not _DAEMONS.match(by),
        over_time=None not in (start, end, allowed) and end - start >= allowed,  # type: ignore[operator]
        over_memory=bool(limit) and memory >= _NEAR * limit * int(slots[0] if slots else 1),
    )


# Where it stands what a job had asked for.
_ASKED = ("category", "submit_cmd", "submit_cmd_line")


def _asked(words: str) -> dict[str, str]:
    """The resources of ``-l h_rt=8,h_vmem=200M -pe smp 2``."""
    found = {}
    for resources in re.findall(r"-l (\S+)", words):
        for word in resources.split(","):
            name, _, value = word.partition("=")
            found[name] = value
    return found


def _time(text: str) -> float | None:
    for form in _TIMES:
        try:
            return float(timegm(datetime.strptime(text, form).timetuple()))
        except ValueError:
            continue
    return None


def _size(text: str) -> float:
    match = _SIZE.fullmatch(text)
    try:
        return float(match[1]) * _UNITS[match[2].upper()] if match else 0.0
    except ValueError:
        return 0.0


def _seconds(text: str) -> float | None:
    parts = text.split(":")
    if not all(part.isdecimal() for part in parts):
        return None
    total = 0
    for part in parts:
        total = total * 60 + int(part)
    return float(total)
