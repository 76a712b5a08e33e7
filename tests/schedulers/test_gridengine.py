"""What Grid Engine's commands print, read; and one sighting made of it. Texts are of 8.1.9."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.batch.batch import Batch
from hpcrunner.request.reasons import Reason
from hpcrunner.schedulers.answers import Answer
from hpcrunner.schedulers.command import CommandFailed, Completed
from hpcrunner.schedulers.contract import Job, JobState, SchedulerUnavailable, Verdict
from hpcrunner.schedulers.gridengine import qacct, qdel, qstat
from hpcrunner.schedulers.gridengine.cluster import GridEngine
from hpcrunner.schedulers.gridengine.environment import library_environment, query_environment
from hpcrunner.schedulers.gridengine.refusals import answer_of, in_words
from hpcrunner.sites.spec import JobSpec

AWAY = Completed("", "error: commlib error: got select error (Connection refused)\n", 1)
NO_ACCOUNT = Completed("", "error: job name hpcr-* not found\n", 1)


def listed(*rows: tuple[str, str, str, str], task: str = "") -> Completed:
    """Rows of (number, name, state, queue)."""
    jobs = "".join(
        f"<job_list state='x'><JB_job_number>{number}</JB_job_number><JAT_prio>0.5</JAT_prio>"
        f"<JB_name>{name}</JB_name><JB_owner>me</JB_owner><state>{state}</state>"
        + ("<JAT_start_time>2026-11-21T20:11:26</JAT_start_time>" if queue else "")
        + f"<queue_name>{queue}</queue_name><slots>1</slots>{task}</job_list>"
        for number, name, state, queue in rows
    )
    text = f"<?xml version='1.0'?><job_info><queue_info>{jobs}</queue_info><job_info/></job_info>"
    return Completed(text, "", 0)


def accounted(
    name: str = "hpcr-ab",
    number: str = "17",
    task: str = "undefined",
    failed: str = "0",
    status: str = "0",
    more: str = "",
) -> str:
    return (
        "=" * 62 + f"\nqname        all.q\nhostname     n1\nowner        me\njobname      {name}\n"
        f"jobnumber    {number}\ntaskid       {task}\n"
        "qsub_time    Sat Nov 21 20:11:26 2026\nstart_time   Sat Nov 21 20:11:26 2026\n"
        "end_time     Sat Nov 21 20:11:34 2026\nslots        2\n"
        f"failed       {failed}\nexit_status  {status}\n{more}arid         undefined\n"
    )


class Cell:
    """Answers by program, and what was asked."""

    def __init__(self, **answers: Completed | CommandFailed) -> None:
        self.answers = answers
        self.asked: list[list[str]] = []
        self.now = 0.0

    def __call__(
        self, argv: Sequence[str], *, timeout: float, environment: Mapping[str, str]
    ) -> Completed:
        self.asked.append(list(argv))
        answer = self.answers[argv[0]]
        if isinstance(answer, CommandFailed):
            raise answer
        return answer

    def witness(self, **options: Any) -> GridEngine:
        options |= {"environment": {}, "clock": lambda: self.now}
        made = GridEngine(runner=self, user="me", **options)
        made.listing.rows = lambda ask: ask()  # type: ignore[method-assign]
        return made


def seen(cell: Cell) -> Any:
    job = Job("17", "hpcr-ab")
    return cell.witness().look_up([job], 0.0)[job]


def test_a_listing_has_our_jobs_with_their_tasks_and_hosts() -> None:
    rows = qstat.parse(
        listed(("17", "hpcr-ab", "r", "all.q@n1"), ("18", "other &lt;job&gt;", "qw", ""))
    )
    assert [(row.job_id, row.word, row.node) for row in rows] == [("17", "r", "n1")]
    assert rows[0].started_at == 1795291886.0
    tasks = qstat.parse(listed(("17", "hpcr-ab", "qw", ""), task="<tasks>2-4:1</tasks>"))
    assert [row.job_id for row in tasks] == ["17.2", "17.3", "17.4"]


@pytest.mark.parametrize(
    "answer",
    [
        AWAY,
        Completed("", "", 0),
        Completed("<job_info>", "", 0),
        Completed("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "", 0),
        listed(("x", "hpcr-ab", "r", "")),
        listed(("17", "hpcr-ab", "r", ""), task="<tasks>1,...</tasks>"),
    ],
)
def test_a_listing_that_cannot_be_read_is_no_empty_listing(answer: Completed) -> None:
    with pytest.raises(SchedulerUnavailable):
        qstat.parse(answer)
    assert seen(Cell(qstat=answer, qacct=NO_ACCOUNT)).verdict is Verdict.UNAVAILABLE


def test_a_name_that_no_xml_can_hold_hides_no_job() -> None:
    rows = qstat.parse(listed(("16", "b\x01d", "r", ""), ("17", "hpcr-ab", "r", "a@n1")))
    assert [row.job_id for row in rows] == ["17"]


@pytest.mark.parametrize(
    ("word", "state", "stuck"),
    [
        ("qw", JobState.QUEUED, False),
        ("hqw", JobState.QUEUED, False),
        ("Eqw", JobState.QUEUED, True),
        ("Rq", JobState.QUEUED, False),
        ("t", JobState.RUNNING, False),
        ("Rr", JobState.RUNNING, False),
        ("dr", JobState.RUNNING, False),
        ("S", JobState.RUNNING, False),
        ("X", JobState.RUNNING, False),
    ],
)
def test_states_in_the_contracts_terms(word: str, state: JobState, stuck: bool) -> None:
    told = seen(Cell(qstat=listed(("17", "hpcr-ab", word, ""))))
    assert (told.state, told.stuck) == (state, stuck)


H_RT = "maxvmem      10.0MB\ncategory     -l h_rt=8,h_vmem=200M -pe smp 2\n"
MEMORY = "maxvmem      401.0MB\ncategory     -l h_rt=99,h_vmem=200M -pe smp 2\n"


@pytest.mark.parametrize(
    ("failed", "status", "more", "reason", "signal"),
    [
        ("0", "0", "", Reason.COMPLETED, None),
        ("0", "3", "", Reason.SCHEDULER_FAILED, None),
        ("37  : qmaster enforced h_rt, h_cpu, or h_vmem limit", "137", H_RT, Reason.TIME_LIMIT, 9),
        ("37  : qmaster enforced", "140", MEMORY, Reason.OUT_OF_MEMORY, 12),
        ("100 : assumedly after job", "137   (Killed)", "", Reason.SCHEDULER_FAILED, 9),
        ("100 : assumedly after job", "137", MEMORY, Reason.OUT_OF_MEMORY, 9),
        ("100 : assumedly after job", "137", H_RT, Reason.TIME_LIMIT, 9),
        ("100 : assumedly after job", "137", "deleted_by   me\n", Reason.CANCELLED, 9),
        ("100 : assumedly after job", "143", "", Reason.SCHEDULER_FAILED, 15),
        ("19  : before writing exit_status", "0", "", Reason.NODE_FAIL, None),
        ("26  : opening input/output file", "0", "", Reason.LAUNCH_FAILED, None),
    ],
)
def test_endings_by_accounting(
    failed: str, status: str, more: str, reason: Reason, signal: int | None
) -> None:
    text = accounted(failed=failed, status=status, more=more)
    told = seen(Cell(qstat=listed(), qacct=Completed(text, "", 0)))
    assert (told.state, told.reason, told.signal) == (JobState.ENDED, reason, signal)
    assert (told.node, told.accounted) == ("n1", True)
    assert told.ended_at == told.started_at + 8


def test_the_last_of_several_runs_counts_and_a_rescheduled_one_is_no_ending() -> None:
    again = accounted(failed="25  : rescheduling", status="99")
    both = Cell(qstat=listed(), qacct=Completed(again + accounted(status="1"), "", 0))
    assert seen(both).exit_code == 1
    only = Cell(qstat=listed(), qacct=Completed(again, "", 0))
    assert seen(only).verdict is Verdict.NOT_FOUND


def test_an_id_that_came_again_is_another_job() -> None:
    cell = Cell(
        qstat=listed(("17", "hpcr-cd", "r", "a@n1")),
        qacct=Completed(accounted(name="hpcr-cd"), "", 0),
    )
    assert seen(cell).verdict is Verdict.NOT_FOUND


@pytest.mark.parametrize(
    ("live", "accounts", "verdict", "gone"),
    [
        (AWAY, NO_ACCOUNT, Verdict.UNAVAILABLE, False),
        (AWAY, Completed(accounted(), "", 0), Verdict.FOUND, False),
        # It may run again, and who could say so is away.
        (AWAY, Completed(accounted(failed="19  : x"), "", 0), Verdict.UNAVAILABLE, False),
        (listed(), Completed("", "accounting: No such file", 1), Verdict.UNAVAILABLE, True),
        (listed(), Completed("", "", 0), Verdict.UNAVAILABLE, True),
        (listed(), Completed(accounted(failed=""), "", 0), Verdict.UNAVAILABLE, True),
        (listed(), NO_ACCOUNT, Verdict.NOT_FOUND, False),
    ],
)
def test_what_could_not_be_asked_is_not_absent(
    live: Completed, accounts: Completed, verdict: Verdict, gone: bool
) -> None:
    told = seen(Cell(qstat=live, qacct=accounts))
    assert (told.verdict, told.gone) == (verdict, gone)


def test_a_job_deleted_while_it_waited_is_cancelled_once_accounting_had_its_time() -> None:
    job = Job("17", "hpcr-ab")
    cell = Cell(qstat=listed(("17", "hpcr-ab", "z", "")), qacct=NO_ACCOUNT)
    witness = cell.witness(lag=100.0)
    assert witness.look_up([job], 0.0)[job].state is JobState.COMPLETING
    cell.now = 99.0
    assert witness.look_up([job], 0.0)[job].state is JobState.COMPLETING
    cell.now = 101.0
    told = witness.look_up([job], 0.0)[job]
    assert (told.state, told.reason) == (JobState.ENDED, Reason.CANCELLED)
    # An account that comes late is better than that.
    cell.answers["qacct"] = Completed(accounted(), "", 0)
    assert witness.look_up([job], 0.0)[job].reason is Reason.COMPLETED


def test_questions_do_not_grow_with_the_number_of_jobs() -> None:
    cell = Cell(qstat=listed(), qacct=NO_ACCOUNT)
    jobs = [Job(f"{n}.{t}", f"hpcr-{n:x}") for n in range(50) for t in range(10)]
    cell.witness().look_up(jobs, 1795291886.0)
    assert cell.asked[1:] == [
        ["qacct", "-o", "me", "-b", "202611211911", "-j", "hpcr-*"],
        # What is missing may have failed before it began, which -b hides.
        ["qacct", "-o", "me", "-e", "197001020000", "-j", "hpcr-*"],
    ]
    alone = Cell(qstat=listed(("17", "hpcr-ab", "r", "")))
    seen(alone)
    assert [argv[0] for argv in alone.asked] == ["qstat"]


def test_a_lost_submission_is_found_live_or_in_accounting_and_absent_only_for_both() -> None:
    batch = Batch("ab", JobSpec(), 2, Path("/s"))
    live = Cell(qstat=listed(("17", "hpcr-ab", "qw", "")))
    found = live.witness().seek([batch], 0.0)["ab"]
    assert found.submission is not None
    assert found.submission.job_ids == ("17.1", "17.2")
    past = Cell(qstat=listed(), qacct=Completed(accounted(task="2"), "", 0))
    assert past.witness().seek([batch], 0.0)["ab"].submission == found.submission
    for answers, verdict in (
        ({"qstat": listed(), "qacct": NO_ACCOUNT}, Verdict.NOT_FOUND),
        ({"qstat": AWAY, "qacct": NO_ACCOUNT}, Verdict.UNAVAILABLE),
        ({"qstat": listed(), "qacct": AWAY}, Verdict.UNAVAILABLE),
    ):
        assert Cell(**answers).witness().seek([batch], 0.0)["ab"].verdict is verdict


def test_only_our_own_jobs_that_still_live_are_deleted_tasks_by_ranges() -> None:
    cell = Cell(
        qstat=listed(
            ("17", "hpcr-ab", "r", ""), ("18", "hpcr-ff", "r", ""), ("19", "hpcr-cd", "z", "")
        ),
        qdel=Completed("me has registered the job 17 for deletion\n", "", 0),
    )
    jobs = [Job("17", "hpcr-ab"), Job("18", "hpcr-ab"), Job("19", "hpcr-cd")]
    cell.witness().cancel(jobs)
    assert cell.asked[-1] == ["qdel", "17"]
    assert list(qdel.argvs(["5", "17.1", "17.2", "17.4"])) == [["qdel", "5", "17.1-2", "17.4"]]
    qdel.parse(Completed('denied: job "999" does not exist\n', "", 1))
    with pytest.raises(SchedulerUnavailable):
        qdel.parse(AWAY)


@pytest.mark.parametrize(
    ("kind", "words", "answer"),
    [
        ("DeniedByDrmException", 'unknown resource "nosuch"', Answer.NEVER),
        ("DeniedByDrmException", "error: no suitable queues", Answer.DOUBTFUL),
        (
            "DeniedByDrmException",
            "job rejected: you tried to submit a job with more than 1000 tasks",
            Answer.NEVER,
        ),
        (
            "DeniedByDrmException",
            "job rejected: Only 5 jobs are allowed per user (current job count: 5)",
            Answer.NOT_NOW,
        ),
        (
            "DrmCommunicationException",
            'unable to send message to qmaster using port 6444 on host "m": got send error',
            Answer.NOT_NOW,
        ),
        (
            "DrmCommunicationException",
            "failed receiving gdi request response for mid=3 (got syncron message receive timeout)",
            Answer.UNCERTAIN,
        ),
        ("InternalException", "", Answer.UNCERTAIN),
    ],
)
def test_what_a_refusal_means(kind: str, words: str, answer: Answer) -> None:
    assert answer_of(kind, words) is answer


def test_a_refusal_is_one_line() -> None:
    assert in_words("error: no suitable queues\nerror: no suitable queues\n") == (
        "no suitable queues"
    )


def test_environments_hold_the_cell_and_nothing_else_of_the_gateways() -> None:
    hostile = {"SGE_ROOT": "/sge", "SGE_TASK_ID": "3", "SECRET": "x", "LD_PRELOAD": "y"}
    for environment in (query_environment(hostile), library_environment(hostile)):
        assert environment["SGE_ROOT"] == "/sge"
        assert not {"SGE_TASK_ID", "SECRET", "LD_PRELOAD"} & set(environment)
    assert query_environment({"HOME": "/home/me", "TZ": "Asia/Tokyo"})["TZ"] == "UTC"


def test_an_answer_of_accounting_is_of_our_jobs_alone() -> None:
    text = accounted(name="other job = 3") + accounted(number="18", task="4")
    runs = qacct.parse(Completed(text, "", 0)).runs
    assert set(runs) == {Job("18.4", "hpcr-ab")}
