"""How many questions Slurm is asked, and what becomes of answers that do not come."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from hpcrunner.batch.batch import Batch
from hpcrunner.schedulers.backend import Backend
from hpcrunner.schedulers.command import CommandFailed, Completed
from hpcrunner.schedulers.contract import (
    Job,
    JobState,
    SchedulerUnavailable,
    Sighting,
    Sought,
    SubmitRefused,
    SubmitUncertain,
    Verdict,
)
from hpcrunner.schedulers.sbatch_submitter import SbatchSubmitter
from hpcrunner.schedulers.slurm import Listing, Slurm

SINCE = 1795225000.0
EMPTY = Completed("", "", 0)
DOWN = Completed("", "slurm_load_jobs error: Unable to contact slurm controller", 1)
LIVE = Completed("7|N/A|RUNNING|100|n1|None|hpcr-ab12\n", "", 0)
CUT = Completed("7|N/A|RUNNING|100|n1|None|hpcr-ab12\n8|N/A|RUNN", "", 0)
LATE = CommandFailed("no answer within 25 s", where="squeue", started=True)
GONE = CommandFailed("cannot be run (No such file or directory)", where="sbatch", started=False)
Batches = Callable[..., Batch]

# The names of the jobs in the captured outputs.
CAPTURED = {
    "6739": "hpcr-ca01",
    "6741": "hpcr-ca03",
    "6742": "hpcr-ca04",
    "6749": "hpcr-ca0a",
    "6750": "hpcr-ca0b",
    "6751": "hpcr-ca0c",
    "6760": "hpcr-ca10",
}


def look_up(slurm: Slurm, ids: Sequence[str], name: str = "hpcr-ab12") -> dict[str, Sighting]:
    """By id; a captured job goes by its own name, any other by ``name``."""
    jobs = [Job(job_id, CAPTURED.get(job_id.partition("_")[0], name)) for job_id in ids]
    return {job.id: seen for job, seen in slurm.look_up(jobs, SINCE).items()}


def by_sbatch(
    slurm: Slurm, options: Callable[[Batch], Sequence[str]] = lambda batch: []
) -> Backend:
    return Backend(SbatchSubmitter(slurm, options), slurm)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_jobs_that_live_cost_one_question(commands: Any, captured: Any) -> None:
    ask = commands(squeue=captured("squeue_states_all.txt"))
    seen = look_up(Slurm(runner=ask), ["6741", "6760", "6750_3", "6749_6"])
    assert ask.programs == ["squeue"]
    assert {s.state for s in seen.values()} == {JobState.RUNNING, JobState.QUEUED}


def test_any_number_of_ended_jobs_costs_one_more(commands: Any, captured: Any) -> None:
    ask = commands(
        squeue=captured("squeue_states_all.txt"), sacct=captured("sacct_while_running.txt")
    )
    ids = ["6741", *(f"6751_{n}" for n in range(1, 8)), *(f"6742_{n}" for n in range(1, 5)), "6739"]
    seen = look_up(Slurm(runner=ask), ids)
    assert ask.programs == ["squeue", "sacct"]
    assert "--jobs=6739,6742,6751" in ask.asked[1]
    assert seen["6751_5"].word == "CANCELLED"
    assert seen["6742_2"].exit_code == 2
    assert seen["6739"].accounted


def test_no_jobs_cost_nothing(commands: Any) -> None:
    assert Slurm(runner=commands()).look_up([], SINCE) == {}


def test_every_id_asked_for_gets_an_answer(commands: Any) -> None:
    ask = commands(squeue=EMPTY, sacct=EMPTY)
    ids = ["1", "1_2", "hpcr-ab", "", "1;rm", "1", "٣"]
    seen = look_up(Slurm(runner=ask), ids)
    assert set(seen) == set(ids)
    assert seen["1_2"].verdict is Verdict.NOT_FOUND
    for foreign in ("hpcr-ab", "", "1;rm", "٣"):
        assert seen[foreign].verdict is Verdict.UNAVAILABLE


@pytest.mark.parametrize("outage", [DOWN, LATE])
def test_an_outage_of_either_witness_never_makes_a_job_absent(
    commands: Any, outage: Completed | CommandFailed
) -> None:
    for answers in (
        {"squeue": outage, "sacct": EMPTY},
        {"squeue": EMPTY, "sacct": outage},
        {"squeue": outage, "sacct": outage},
    ):
        slurm = Slurm(runner=commands(**answers))
        assert look_up(slurm, ["7"])["7"].verdict is Verdict.UNAVAILABLE


def test_without_accounting_a_healthy_queue_alone_decides(commands: Any) -> None:
    ask = commands(squeue=EMPTY)
    slurm = Slurm(accounting=False, runner=ask)
    assert look_up(slurm, ["7"])["7"].verdict is Verdict.NOT_FOUND
    ask.answers["squeue"] = DOWN
    slurm.listing.clear()
    assert look_up(slurm, ["7"])["7"].verdict is Verdict.UNAVAILABLE
    assert ask.programs == ["squeue", "squeue"]


def test_an_account_of_long_ago_is_not_this_jobs(commands: Any) -> None:
    old = Completed("7|COMPLETED|0:0|1000|1000|1100|n1|hpcr-ab12\n", "", 0)
    seen = look_up(Slurm(runner=commands(squeue=EMPTY, sacct=old)), ["7"])
    assert seen["7"].verdict is Verdict.NOT_FOUND


def test_a_new_state_word_is_logged_once(commands: Any, caplog: pytest.LogCaptureFixture) -> None:
    rows = Completed(
        "7|N/A|DANCING|100|n1|None|hpcr-ab12\n8|N/A|DANCING|100|n1|None|hpcr-ab12\n", "", 0
    )
    slurm = Slurm(runner=commands(squeue=rows))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert look_up(slurm, ["7", "8"])["8"].state is JobState.RUNNING
    assert len([r for r in caplog.records if "DANCING" in r.getMessage()]) == 1


def seek(slurm: Slurm, batch: Batch) -> Sought:
    return slurm.seek([batch], SINCE)[batch.id]


def test_a_live_batch_is_found_by_name_without_accounting(
    commands: Any, make_batch: Batches
) -> None:
    ask = commands(squeue=Completed("17|2|RUNNING|100|n1|None|hpcr-ab12\n", "", 0))
    sought = seek(Slurm(runner=ask), make_batch(size=3))
    assert sought.verdict is Verdict.FOUND
    assert sought.submission is not None
    assert sought.submission.job_ids == ("17_1", "17_2", "17_3")
    assert ask.programs == ["squeue"]


def test_a_batch_that_left_the_queue_is_found_in_accounting(
    commands: Any, make_batch: Batches
) -> None:
    account = Completed("17|COMPLETED|0:0|100|100|100|n1|hpcr-ab12\n", "", 0)
    sought = seek(Slurm(runner=commands(squeue=EMPTY, sacct=account)), make_batch())
    assert sought.submission is not None
    assert sought.submission.job_ids == ("17",)


def test_an_array_cancelled_before_its_first_task_is_found_in_accounting(
    commands: Any, make_batch: Batches
) -> None:
    account = Completed("17_[1-3]|CANCELLED|0:0|100|None|100|None assigned|hpcr-ab12\n", "", 0)
    sought = seek(Slurm(runner=commands(squeue=DOWN, sacct=account)), make_batch(size=3))
    assert sought.submission is not None
    assert sought.submission.job_ids[0] == "17_1"


@pytest.mark.parametrize(
    ("squeue", "sacct", "verdict"),
    [
        (EMPTY, EMPTY, Verdict.NOT_FOUND),
        (DOWN, EMPTY, Verdict.UNAVAILABLE),
        (EMPTY, DOWN, Verdict.UNAVAILABLE),
        (LATE, LATE, Verdict.UNAVAILABLE),
    ],
)
def test_a_name_is_absent_only_where_all_witnesses_say_so(
    commands: Any, make_batch: Batches, squeue: Any, sacct: Any, verdict: Verdict
) -> None:
    slurm = Slurm(runner=commands(squeue=squeue, sacct=sacct))
    assert seek(slurm, make_batch()).verdict is verdict


def test_a_batch_that_is_there_twice_is_reported_and_the_first_adopted(
    commands: Any, make_batch: Batches, caplog: pytest.LogCaptureFixture
) -> None:
    rows = "9|N/A|RUNNING|100|n1|None|hpcr-ab12\n10|N/A|RUNNING|100|n1|None|hpcr-ab12\n"
    sought = seek(Slurm(runner=commands(squeue=Completed(rows, "", 0))), make_batch())
    assert sought.submission is not None
    assert sought.submission.job_ids == ("9",)
    assert "2 times" in caplog.text


def test_the_record_of_a_refusal_is_not_taken_for_the_submission_that_followed(
    commands: Any, make_batch: Batches
) -> None:
    """Slurm 22.05 keeps what it refused for its node configuration, as seen on a real one."""
    refused = "9|N/A|FAILED|100||BadConstraints|hpcr-ab12\n"
    ask = commands(squeue=Completed(refused + "10|N/A|PENDING|N/A||None|hpcr-ab12\n", "", 0))
    batch = make_batch()
    sought = seek(Slurm(runner=ask), batch)
    assert sought.submission is not None
    assert sought.submission.job_ids == ("10",)
    ask.answers["squeue"] = Completed(refused, "", 0)
    assert seek(Slurm(runner=ask), batch).verdict is Verdict.FOUND


def test_a_name_that_only_begins_alike_is_another_batch(commands: Any, make_batch: Batches) -> None:
    rows = Completed("9|N/A|RUNNING|100|n1|None|hpcr-ab12ff\n", "", 0)
    slurm = Slurm(accounting=False, runner=commands(squeue=rows))
    assert seek(slurm, make_batch()).verdict is Verdict.NOT_FOUND


def test_submitting_gives_one_id_a_task(commands: Any, make_batch: Batches) -> None:
    scheduler = by_sbatch(
        Slurm(runner=commands(sbatch=Completed("17\n", "", 0))), lambda batch: ["--array=1-2"]
    )
    assert scheduler.submit(make_batch("a1", 2)).job_ids == ("17_1", "17_2")
    assert scheduler.submit(make_batch("a2")).job_ids == ("17",)


def test_an_sbatch_that_runs_out_of_time_is_uncertain(commands: Any, make_batch: Batches) -> None:
    scheduler = by_sbatch(Slurm(runner=commands(sbatch=LATE)))
    with pytest.raises(SubmitUncertain):
        scheduler.submit(make_batch())


def test_an_sbatch_that_never_ran_submitted_nothing(commands: Any, make_batch: Batches) -> None:
    scheduler = by_sbatch(Slurm(runner=commands(sbatch=GONE)))
    with pytest.raises(SubmitRefused) as refused:
        scheduler.submit(make_batch())
    assert refused.value.passing


def test_a_cancel_that_nobody_heard_is_told(commands: Any) -> None:
    ask = commands(squeue=LIVE, scancel=LATE)
    with pytest.raises(SchedulerUnavailable):
        Slurm(runner=ask).cancel([Job("7", "hpcr-ab12")])
    assert ask.programs == ["squeue", "scancel"]


@pytest.mark.parametrize("outage", [DOWN, LATE, CUT])
def test_a_cancel_while_the_queue_cannot_be_asked_ends_nothing_and_is_told(
    commands: Any, outage: Completed | CommandFailed
) -> None:
    ask = commands(squeue=LIVE, scancel=EMPTY)
    slurm = Slurm(runner=ask)
    assert look_up(slurm, ["7"])["7"].state is JobState.RUNNING
    ask.answers["squeue"] = outage
    with pytest.raises(SchedulerUnavailable):
        slurm.cancel([Job("7", "hpcr-ab12")])
    assert "scancel" not in ask.programs


def test_a_cancel_ends_no_job_that_only_has_the_same_id(commands: Any) -> None:
    rows = (
        "7|N/A|RUNNING|100|n1|None|hpcr-cd\n8|N/A|RUNNING|100|n1|None|hpcr-ab12\n"
        "9|1|PENDING|N/A||None|hpcr-cd\n9|2|PENDING|N/A||None|hpcr-cd\n"
        "12|1|PENDING|N/A||None|hpcr-ab\n12|2|PENDING|N/A||None|hpcr-ab\n"
        "17|N/A|RUNNING|100|n1|None|odd|hpcr-ab12 x\n"
    )
    ask = commands(squeue=Completed(rows, "", 0), scancel=EMPTY)
    ours = [Job(i, "hpcr-ab12") for i in ("7", "8", "9", "9_1", "17", "999")]
    Slurm(runner=ask).cancel([*ours, Job("12_2", "hpcr-ab"), Job("hpcr-ab12", "hpcr-ab12")])
    assert ask.asked[1:] == [["scancel", "8", "12_[2]"]]


def test_a_cancel_of_what_is_not_there_ends_nothing_and_is_no_error(commands: Any) -> None:
    ask = commands(squeue=EMPTY)
    Slurm(runner=ask).cancel([Job("7", "hpcr-ab12")])
    assert ask.programs == ["squeue"]


def test_a_cancel_looks_anew_at_who_bears_the_id(commands: Any) -> None:
    ask = commands(squeue=LIVE)
    slurm = Slurm(runner=ask)
    assert look_up(slurm, ["7"])["7"].state is JobState.RUNNING
    ask.answers["squeue"] = Completed(LIVE.stdout.replace("hpcr-ab12", "hpcr-cd"), "", 0)
    slurm.cancel([Job("7", "hpcr-ab12")])
    assert ask.programs == ["squeue", "squeue"]


ACCOUNT = Completed("7|COMPLETED|0:0|1795225000|1795225000|1795225100|n1|hpcr-ab12\n", "", 0)


@pytest.mark.parametrize(
    ("squeue", "sacct"), [(LIVE, EMPTY), (EMPTY, ACCOUNT), (LIVE, ACCOUNT)], ids=str
)
def test_an_id_that_bears_another_batchs_name_is_not_this_job(
    commands: Any, squeue: Completed, sacct: Completed
) -> None:
    slurm = Slurm(runner=commands(squeue=squeue, sacct=sacct))
    seen = slurm.look_up([Job("7", "hpcr-cd"), Job("7", "hpcr-ab12")], SINCE)
    assert seen[Job("7", "hpcr-cd")] == Sighting(Verdict.NOT_FOUND)
    assert seen[Job("7", "hpcr-ab12")].verdict is Verdict.FOUND


def test_an_id_that_bears_another_batchs_name_is_absent_only_where_all_witnesses_answered(
    commands: Any,
) -> None:
    for answers in ({"squeue": LIVE, "sacct": DOWN}, {"squeue": DOWN, "sacct": ACCOUNT}):
        seen = look_up(Slurm(runner=commands(**answers)), ["7"], name="hpcr-cd")["7"]
        assert seen.verdict is Verdict.UNAVAILABLE
    alone = Slurm(accounting=False, runner=commands(squeue=LIVE))
    assert look_up(alone, ["7"], name="hpcr-cd")["7"].verdict is Verdict.NOT_FOUND


def test_the_account_of_a_job_whose_id_another_one_has_now_still_tells_its_end(
    commands: Any,
) -> None:
    again = Completed("7|N/A|RUNNING|100|n1|None|hpcr-cd\n", "", 0)
    slurm = Slurm(runner=commands(squeue=again, sacct=ACCOUNT))
    assert look_up(slurm, ["7"])["7"].word == "COMPLETED"
    assert look_up(slurm, ["7"], name="hpcr-cd")["7"].state is JobState.RUNNING


def test_a_task_of_a_forgotten_array_is_not_taken_for_a_cancelled_one(commands: Any) -> None:
    """Its id is that of another batch's array now, which has fewer tasks."""
    rows = "7_[1-2]|PENDING|0:0|1795225000|Unknown|Unknown|None assigned|hpcr-cd\n"
    slurm = Slurm(runner=commands(squeue=EMPTY, sacct=Completed(rows, "", 0)))
    assert look_up(slurm, ["7_3"])["7_3"].verdict is Verdict.NOT_FOUND
    assert look_up(slurm, ["7_3"], name="hpcr-cd")["7_3"].word == "CANCELLED"


def test_an_answer_that_is_cut_short_never_makes_a_job_absent(
    commands: Any, make_batch: Batches
) -> None:
    batch = make_batch("cd")
    cut_account = Completed(ACCOUNT.stdout[:-1], "", 0)
    for answers in ({"squeue": CUT, "sacct": EMPTY}, {"squeue": EMPTY, "sacct": cut_account}):
        slurm = Slurm(runner=commands(**answers))
        assert look_up(slurm, ["8"])["8"].verdict is Verdict.UNAVAILABLE
        assert seek(slurm, batch) == Sought(Verdict.UNAVAILABLE)


def test_one_listing_serves_a_round_and_is_asked_for_again_after_a_second(
    commands: Any, make_batch: Batches
) -> None:
    clock = Clock()
    ask = commands(squeue=LIVE)
    slurm = Slurm(runner=ask, listing=Listing(clock))
    assert seek(slurm, make_batch()).verdict is Verdict.FOUND
    clock.now += 0.9
    assert look_up(slurm, ["7"])["7"].state is JobState.RUNNING
    assert ask.programs == ["squeue"]
    clock.now += 0.2
    ask.answers |= {"squeue": EMPTY, "sacct": EMPTY}
    assert look_up(slurm, ["7"])["7"].verdict is Verdict.NOT_FOUND
    assert ask.programs == ["squeue", "squeue", "sacct"]


def test_an_empty_listing_is_a_listing(commands: Any) -> None:
    ask = commands(squeue=EMPTY)
    slurm = Slurm(accounting=False, runner=ask, listing=Listing(Clock()))
    for _ in range(2):
        assert look_up(slurm, ["7"])["7"].verdict is Verdict.NOT_FOUND
    assert ask.programs == ["squeue"]


def test_a_listing_ages_from_the_moment_it_was_asked_for(commands: Any) -> None:
    """A controller that is slow to answer tells of the moment when it was asked."""
    clock = Clock()
    ask = commands(squeue=LIVE)

    def slow(argv: Sequence[str], **options: Any) -> Completed:
        clock.now += 5.0
        answer: Completed = ask(argv, **options)
        return answer

    slurm = Slurm(runner=slow, listing=Listing(clock))
    for _ in range(2):
        look_up(slurm, ["7"])
    assert ask.programs == ["squeue", "squeue"]


def test_an_old_listing_never_stands_in_for_one_that_did_not_come(
    commands: Any, make_batch: Batches
) -> None:
    clock = Clock()
    ask = commands(squeue=LIVE, sacct=EMPTY)
    slurm = Slurm(runner=ask, listing=Listing(clock))
    assert look_up(slurm, ["7"])["7"].state is JobState.RUNNING
    clock.now += 30
    ask.answers["squeue"] = DOWN
    batch = make_batch("cd")
    for _ in range(2):
        assert seek(slurm, batch).verdict is Verdict.UNAVAILABLE
        assert look_up(slurm, ["7", "8"])["7"].verdict is Verdict.UNAVAILABLE


def test_a_submission_and_a_cancel_end_a_listing(commands: Any, make_batch: Batches) -> None:
    ask = commands(squeue=LIVE, sbatch=Completed("8\n", "", 0), scancel=EMPTY)
    slurm = Slurm(accounting=False, runner=ask, listing=Listing(Clock()))
    scheduler = by_sbatch(slurm)
    assert look_up(slurm, ["7"])["7"].state is JobState.RUNNING
    scheduler.submit(make_batch("cd"))
    ask.answers["squeue"] = Completed(f"{LIVE.stdout}8|N/A|PENDING|N/A||None|hpcr-cd\n", "", 0)
    assert look_up(slurm, ["8"], name="hpcr-cd")["8"].state is JobState.QUEUED
    scheduler.cancel([Job("7", "hpcr-ab12")])
    ask.answers["squeue"] = EMPTY
    assert look_up(slurm, ["7"])["7"].verdict is Verdict.NOT_FOUND
    assert ask.programs == ["squeue", "sbatch", "squeue", "squeue", "scancel", "squeue"]


@pytest.mark.parametrize("lost", [LATE, GONE], ids=["uncertain", "never ran"])
def test_a_submission_that_failed_ends_a_listing_too(
    commands: Any, make_batch: Batches, lost: CommandFailed
) -> None:
    ask = commands(squeue=EMPTY, sbatch=lost)
    slurm = Slurm(accounting=False, runner=ask, listing=Listing(Clock()))
    batch = make_batch()
    assert seek(slurm, batch).verdict is Verdict.NOT_FOUND
    with pytest.raises((SubmitUncertain, SubmitRefused)):
        by_sbatch(slurm).submit(batch)
    ask.answers["squeue"] = LIVE
    assert seek(slurm, batch).verdict is Verdict.FOUND


def test_many_uncertain_batches_cost_two_questions(commands: Any, make_batch: Batches) -> None:
    live = Completed("17|N/A|RUNNING|100|n1|None|hpcr-a1\n", "", 0)
    account = Completed("18|COMPLETED|0:0|100|100|100|n1|hpcr-a2\n", "", 0)
    ask = commands(squeue=live, sacct=account)
    batches = [make_batch(f"a{i}") for i in range(200)]
    sought = Slurm(runner=ask).seek(batches, SINCE)
    assert ask.programs == ["squeue", "sacct"]
    found = {name: s.submission.job_ids for name, s in sought.items() if s.submission}
    assert found == {"a1": ("17",), "a2": ("18",)}
    assert {s.verdict for n, s in sought.items() if n not in found} == {Verdict.NOT_FOUND}


def test_an_outage_is_logged_when_it_begins_and_when_it_is_over(
    commands: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ask = commands(squeue=DOWN)
    slurm = Slurm(accounting=False, runner=ask)
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            slurm.look_up([Job("7", "hpcr-ab")], SINCE)
        ask.answers["squeue"] = EMPTY
        slurm.look_up([Job("7", "hpcr-ab")], SINCE)
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 2
    assert "Unable to contact" in said[0]
    assert said[1] == "squeue answers again"
