"""What accounting has said is kept, and its file read on from where it was left."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.request.reasons import Reason
from hpcrunner.schedulers.command import Completed, run
from hpcrunner.schedulers.contract import Job, SchedulerUnavailable
from hpcrunner.schedulers.gridengine.cluster import GridEngine
from hpcrunner.schedulers.gridengine.ledger import Ledger
from hpcrunner.schedulers.gridengine.qacct import Accounts

NONE_LISTED = "<?xml version='1.0'?><job_info><queue_info/><job_info/></job_info>"


class Qacct:
    """Reads ``NAME NUMBER START FAILED`` lines as qacct does accounting's, and notes the calls."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.calls: list[str] = []
        self.broken: tuple[str, ...] = ()
        self.now = 0.0

    def __call__(self, argv: Sequence[str]) -> Completed:
        option = "-f" if argv[1] == "-f" else argv[3]
        self.calls.append(option)
        if option in self.broken:
            return Completed("", f"unknown option {option}", 1)
        file = Path(argv[2]) if option == "-f" else self.file
        rows = [line.split() for line in file.read_text().splitlines()]
        chosen = {
            "-f": lambda start: True,
            "-b": lambda start: start,
            "-e": lambda start: not start,
        }
        blocks = [_block(*row) for row in rows if chosen[option](int(row[2]))]
        return Completed("".join(blocks), "", 0) if blocks else Completed("", NOT_FOUND, 1)

    def add(self, *lines: str) -> None:
        with self.file.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)

    def ledger(self, file: Path | None = None) -> Ledger:
        return Ledger("me", self, file or self.file, 60.0, lambda: self.now)

    def took(self) -> list[str]:
        """The calls since this was asked last."""
        calls, self.calls = self.calls, []
        return calls


NOT_FOUND = "error: job name hpcr-* not found\n"


def _block(name: str, number: str, start: str, failed: str) -> str:
    began = "Sat Nov 21 20:11:26 2026" if int(start) else "-/-"
    return (
        "=" * 62 + f"\nhostname n1\njobname {name}\njobnumber {number}\ntaskid undefined\n"
        f"start_time {began}\nend_time {began}\nfailed {failed}\nexit_status 0\n"
    )


@pytest.fixture
def qacct(tmp_path: Path) -> Qacct:
    made = Qacct(tmp_path / "accounting")
    made.add("hpcr-1 1 5 0")
    return made


def lacks(*names: str) -> Callable[[Accounts], bool]:
    return lambda accounts: not {job.name for job in accounts.runs}.issuperset(names)


def names(accounts: Accounts) -> list[str]:
    return sorted(job.name for job in accounts.runs)


def test_the_whole_is_read_once_and_then_what_was_added(qacct: Qacct) -> None:
    ledger = qacct.ledger()
    assert names(ledger.look(0, lacks("hpcr-1"))) == ["hpcr-1"]
    assert qacct.took() == ["-b"]
    # Others' lines need no qacct, and half a line is none yet.
    qacct.add("other 2 5 0")
    with qacct.file.open("a") as file:
        file.write("hpcr-3 3 ")
    assert names(ledger.look(0, lacks("hpcr-3"))) == ["hpcr-1"]
    assert qacct.took() == []
    qacct.add("5 0", "hpcr-4 4 0 19")
    assert names(ledger.look(0, lacks())) == ["hpcr-1", "hpcr-3", "hpcr-4"]
    assert qacct.took() == ["-f"]
    assert names(ledger.look(0, lacks())) == ["hpcr-1", "hpcr-3", "hpcr-4"]
    assert qacct.took() == []


def test_what_is_missing_is_looked_for_in_the_whole_now_and_then(qacct: Qacct) -> None:
    """The file that is seen here may not be the one that qacct reads."""
    ledger = qacct.ledger(qacct.file.with_name("stale"))
    shutil.copy(qacct.file, qacct.file.with_name("stale"))
    ledger.look(0, lacks())
    qacct.add("hpcr-2 2 5 0")
    qacct.took()
    for qacct.now, found, calls in (
        (59.0, ["hpcr-1"], []),
        (61.0, ["hpcr-1", "hpcr-2"], ["-b"]),
        (200.0, ["hpcr-1", "hpcr-2"], []),
    ):
        assert names(ledger.look(0, lacks("hpcr-2"))) == found
        assert qacct.took() == calls


def begun_anew(qacct: Qacct, ledger: Ledger) -> None:
    qacct.file.rename(qacct.file.with_name("accounting.0"))
    qacct.add("hpcr-2 2 5 0")


def unseen(qacct: Qacct, ledger: Ledger) -> None:
    qacct.add("hpcr-2 2 5 0")
    ledger.file = Path("/nowhere/accounting")


def unable(qacct: Qacct, ledger: Ledger) -> None:
    qacct.add("hpcr-2 2 5 0")
    qacct.broken = ("-f",)


@pytest.mark.parametrize("happens", [begun_anew, unseen, unable])
def test_where_it_cannot_be_read_on_the_whole_is_read(
    qacct: Qacct, happens: Callable[[Qacct, Ledger], None]
) -> None:
    ledger = qacct.ledger()
    ledger.look(0, lacks())
    qacct.took()
    happens(qacct, ledger)
    assert "hpcr-2" in names(ledger.look(0, lacks("hpcr-2")))
    assert qacct.took()[-1] == "-b"


def test_what_was_submitted_before_anything_so_far_is_looked_for_in_the_whole(
    qacct: Qacct,
) -> None:
    ledger = qacct.ledger()
    ledger.look(1000, lacks())
    ledger.look(999, lacks())
    assert qacct.took() == ["-b", "-b"]


def test_a_failure_before_the_start_counts_unless_a_later_run_ended(qacct: Qacct) -> None:
    qacct.add("hpcr-2 2 0 19", "hpcr-2 2 5 0", "hpcr-3 3 5 25", "hpcr-3 3 0 26")
    runs = qacct.ledger().look(0, lacks("hpcr-9")).runs
    assert {job.name: run.failed for job, run in runs.items()} == {
        "hpcr-1": 0,
        "hpcr-2": 0,
        "hpcr-3": 26,
    }


def test_accounting_that_is_away_is_not_empty(qacct: Qacct) -> None:
    ledger = qacct.ledger()
    qacct.broken = ("-b",)
    with pytest.raises(SchedulerUnavailable):
        ledger.look(0, lacks())
    qacct.broken = ()
    assert names(ledger.look(0, lacks())) == ["hpcr-1"]


@pytest.fixture
def cell(cluster: Any, tmp_path: Path) -> Mapping[str, str]:
    """A cell of its own with nothing but an accounting file; no master is asked for that."""
    facts = cluster.facts.get("gridengine")
    if not facts:
        pytest.skip("no Grid Engine here: 'make cluster' says why")
    common = tmp_path / "default" / "common"
    common.mkdir(parents=True)
    real = Path(facts["environment"]["SGE_ROOT"]) / "default" / "common"
    for name in ("bootstrap", "act_qmaster"):
        shutil.copy(real / name, common)
    (common / "accounting").touch()
    path = f"{facts['binaries']}:{os.environ['PATH']}"
    locale = {"LC_ALL": "C", "TZ": "UTC", "PATH": path}
    return {**facts["environment"], **locale, "SGE_ROOT": str(tmp_path), "SGE_CELL": "default"}


@pytest.mark.gridengine
def test_two_thousand_ended_jobs_cost_two_runs_of_qacct_and_each_further_one_at_most_one(
    cell: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(cell["SGE_ROOT"], "default", "common", "accounting")
    now = int(time.time())
    monkeypatch.setenv("PATH", cell["PATH"])

    def add(number: int, *, failed: bool) -> None:
        start, end = (0, 0) if failed else (now - 60, now - 30)
        rest = "0:" * 17 + "NONE:dep:NONE:1:0:0:0:0:-l h_rt=90:0:NONE:0:0:0\n"
        with file.open("a") as out:
            out.write(
                f"all.q:n1:me:me:hpcr-{number:x}:{number}:sge:0:{now - 90}:{start}:{end}:"
                f"{19 * failed}:0:{rest}"
            )

    asked: list[str] = []

    def runner(argv: Sequence[str], *, timeout: float, environment: Mapping[str, str]) -> Completed:
        if argv[0] == "qstat":
            return Completed(NONE_LISTED, "", 0)
        asked.append(argv[1] if argv[1] == "-f" else argv[3])
        return run(argv, timeout=timeout, environment=environment)

    for number in range(1, 2001):
        add(number, failed=number % 2 == 0)
    witness = GridEngine(runner=runner, user="me", environment=cell, clock=lambda: 0.0)
    jobs = [Job(str(number), f"hpcr-{number:x}") for number in range(1, 2003)]
    seen = witness.look_up(jobs, now - 90)
    assert Counter(s.reason for s in seen.values()) == {
        Reason.COMPLETED: 1000,
        Reason.NODE_FAIL: 1000,
        None: 2,
    }
    assert asked == ["-b", "-e"]
    for number in (2001, 2002):
        witness.look_up(jobs, now - 90)
        add(number, failed=False)
        assert witness.look_up(jobs, now - 90)[jobs[number - 1]].reason is Reason.COMPLETED
    assert asked == ["-b", "-e", "-f", "-f"]
