"""What other Grid Engines print. The texts are made after public listings and manuals of theirs:

Sun's 6.2u5; Univa's 8.6 (times with milliseconds, ``deleted_by``, no category); Open Cluster
Scheduler 9.2 (wide columns, ISO times, plain bytes, accounting as lines of JSON, no zombies).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from hpcrunner.request.reasons import Reason
from hpcrunner.schedulers.command import Completed
from hpcrunner.schedulers.contract import Job, JobState, SchedulerUnavailable, Verdict
from hpcrunner.schedulers.gridengine import qacct, qstat
from hpcrunner.schedulers.gridengine.cluster import GridEngine
from hpcrunner.schedulers.gridengine.environment import accounting_file

OUTPUTS = Path(__file__).parent / "outputs" / "gridengine"
NONE_LISTED = "<job_info><queue_info/><job_info/></job_info>"
NO_SUCH_STATE = "ERROR! wrong argument to -s option\nusage: qstat [options]\n"


def text(name: str) -> Completed:
    return Completed((OUTPUTS / name).read_text(), "", 0)


def witness(live: Completed, accounts: Completed) -> GridEngine:
    def runner(argv: Sequence[str], *, timeout: float, environment: Mapping[str, str]) -> Completed:
        return live if argv[0] == "qstat" else accounts

    return GridEngine(runner=runner, user="me", environment={}, clock=lambda: 0.0)


@pytest.mark.parametrize(
    ("release", "endings"),
    [
        (
            "sge-6.2u5",
            {
                "41 hpcr-a1": (Reason.COMPLETED, None, 1289293507.0, 60.0),
                "42.3 hpcr-a2": (Reason.SCHEDULER_FAILED, 9, 1289293507.0, 60.0),
            },
        ),
        (
            "univa-8.6",
            {
                "51 hpcr-b1": (Reason.COMPLETED, None, 1596746346.0, 68.0),
                "52.7 hpcr-b2": (Reason.CANCELLED, 9, 1596746346.0, 68.0),
                "53 hpcr-b3": (Reason.TIME_LIMIT, 9, 1596746346.0, 68.0),
                "54 hpcr-b4": (Reason.LAUNCH_FAILED, None, None, None),
            },
        ),
        (
            "ocs-9.2",
            {
                "61.97 hpcr-c1": (Reason.COMPLETED, None, 1727422927.0, 31.0),
                "62 hpcr-c2": (Reason.CANCELLED, 9, 1727422927.0, 31.0),
                # "Deleted" by the daemons that keep limits, which is no cancellation.
                "63 hpcr-c3": (Reason.TIME_LIMIT, 9, 1727422927.0, 31.0),
                "64 hpcr-c4": (Reason.OUT_OF_MEMORY, 9, 1727422927.0, 31.0),
            },
        ),
    ],
)
def test_endings(
    release: str, endings: dict[str, tuple[Reason, int | None, float | None, float | None]]
) -> None:
    accounts = text(f"{release}.qacct")
    runs = qacct.parse(accounts).runs
    assert {f"{job.id} {job.name}" for job in runs} == set(endings)
    seen = witness(Completed(NONE_LISTED, "", 0), accounts).look_up(list(runs), 0.0)
    for job, told in seen.items():
        reason, signal, began, took = endings[f"{job.id} {job.name}"]
        assert (told.state, told.reason, told.signal) == (JobState.ENDED, reason, signal)
        assert told.started_at == began
        ended = None if began is None or took is None else began + took
        assert told.ended_at == ended
        assert told.node.partition(".")[0] in ("node01", "node1c17", "exec1")


@pytest.mark.parametrize(
    ("release", "rows"),
    [
        (
            "sge-6.2u5",
            {
                "41": (JobState.RUNNING, "node01.cluster.example", 1289293507.0),
                "42.3": (JobState.RUNNING, "node02.cluster.example", 1289293507.0),
                "44": (JobState.QUEUED, "", None),
                "42.4": (JobState.QUEUED, "", None),
                "42.5": (JobState.QUEUED, "", None),
                "42.6": (JobState.QUEUED, "", None),
                "43": (JobState.COMPLETING, "", 1289293507.0),
            },
        ),
        (
            "univa-8.6",
            {
                "51": (JobState.RUNNING, "node1c17.cluster.example", 1596746346.0),
                "52.7": (JobState.RUNNING, "node1c18.cluster.example", 1596746346.0),
                "55": (JobState.QUEUED, "", None),
                "56.2": (JobState.QUEUED, "", None),
                "56.4": (JobState.QUEUED, "", None),
                "56.6": (JobState.QUEUED, "", None),
            },
        ),
        (
            "ocs-9.2",
            {
                "61.97": (JobState.RUNNING, "exec1", 1727422927.0),
                "65": (JobState.QUEUED, "", None),
                "66": (JobState.COMPLETING, "", 1727422927.0),
            },
        ),
    ],
)
def test_listings(release: str, rows: dict[str, tuple[JobState, str, float | None]]) -> None:
    live = text(f"{release}.qstat")
    jobs = [Job(row.job_id, row.name) for row in qstat.parse(live)]
    seen = witness(live, Completed("", "error: job name hpcr-* not found\n", 1)).look_up(jobs, 0.0)
    assert {job.id: (told.state, told.node, told.started_at) for job, told in seen.items()} == rows


def test_where_there_are_no_zombies_finished_jobs_are_asked_for() -> None:
    asked: list[str] = []

    def runner(argv: Sequence[str], *, timeout: float, environment: Mapping[str, str]) -> Completed:
        if argv[0] == "qacct":
            return text("ocs-9.2.qacct")
        asked.append(argv[argv.index("-s") + 1])
        return Completed("", NO_SUCH_STATE, 1) if "z" in asked[-1] else text("ocs-9.2.qstat")

    cell = GridEngine(runner=runner, user="me", environment={}, clock=lambda: 0.0)
    for _ in range(2):
        cell.changed()
        assert cell.look_up([Job("65", "hpcr-c5")], 0.0)[Job("65", "hpcr-c5")].state is (
            JobState.QUEUED
        )
    assert asked == ["prsz", "prsf", "prsf"]


def test_a_master_that_is_away_is_not_asked_in_other_words() -> None:
    asked: list[Sequence[str]] = []

    def runner(argv: Sequence[str], *, timeout: float, environment: Mapping[str, str]) -> Completed:
        asked.append(argv)
        return Completed("", "error: commlib error: got select error\n", 1)

    cell = GridEngine(runner=runner, user="me", environment={}, accounting=False)
    assert cell.look_up([Job("1", "hpcr-a")], 0.0)[Job("1", "hpcr-a")].verdict is (
        Verdict.UNAVAILABLE
    )
    assert len(asked) == 1


def test_a_cell_in_which_no_job_has_ended_yet_is_no_trouble_unless_it_is_one() -> None:
    assert qacct.parse(Completed("no jobs running since startup\n", "", 0)).runs == {}
    with pytest.raises(SchedulerUnavailable):
        qacct.parse(Completed("no jobs running since startup\n", "accounting: No such file", 1))


def test_the_accounting_file_is_the_one_that_qacct_reads(tmp_path: Path) -> None:
    common = tmp_path / "prod" / "common"
    common.mkdir(parents=True)
    cell = {"SGE_ROOT": str(tmp_path), "SGE_CELL": "prod"}
    assert accounting_file(cell) == common / "accounting"
    (common / "accounting.jsonl").touch()
    assert accounting_file(cell) == common / "accounting.jsonl"
    assert accounting_file({}) is None
