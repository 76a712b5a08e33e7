"""How many questions Slurm is asked, and what becomes of answers that do not come."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from hpcrunner.batch.batch import Batch
from hpcrunner.schedulers.command import CommandFailed, Completed
from hpcrunner.schedulers.contract import (
    JobState,
    SchedulerUnavailable,
    Sought,
    SubmitRefused,
    SubmitUncertain,
    Verdict,
)
from hpcrunner.schedulers.sbatch_scheduler import SbatchScheduler
from hpcrunner.schedulers.slurm import Slurm

SINCE = 1795225000.0
EMPTY = Completed("", "", 0)
DOWN = Completed("", "slurm_load_jobs error: Unable to contact slurm controller", 1)
LATE = CommandFailed("no answer within 25 s", where="squeue", started=True)
GONE = CommandFailed("cannot be run (No such file or directory)", where="sbatch", started=False)
Batches = Callable[..., Batch]


def test_jobs_that_live_cost_one_question(commands: Any, captured: Any) -> None:
    ask = commands(squeue=captured("squeue_states_all.txt"))
    seen = Slurm(runner=ask).look_up(["6741", "6760", "6750_3", "6749_6"], SINCE)
    assert ask.programs == ["squeue"]
    assert {s.state for s in seen.values()} == {JobState.RUNNING, JobState.QUEUED}


def test_any_number_of_ended_jobs_costs_one_more(commands: Any, captured: Any) -> None:
    ask = commands(
        squeue=captured("squeue_states_all.txt"), sacct=captured("sacct_while_running.txt")
    )
    ids = ["6741", *(f"6751_{n}" for n in range(1, 8)), *(f"6742_{n}" for n in range(1, 5)), "6739"]
    seen = Slurm(runner=ask).look_up(ids, SINCE)
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
    seen = Slurm(runner=ask).look_up(ids, SINCE)
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
        assert slurm.look_up(["7"], SINCE)["7"].verdict is Verdict.UNAVAILABLE


def test_without_accounting_a_healthy_queue_alone_decides(commands: Any) -> None:
    ask = commands(squeue=EMPTY)
    slurm = Slurm(accounting=False, runner=ask)
    assert slurm.look_up(["7"], SINCE)["7"].verdict is Verdict.NOT_FOUND
    ask.answers["squeue"] = DOWN
    assert slurm.look_up(["7"], SINCE)["7"].verdict is Verdict.UNAVAILABLE
    assert ask.programs == ["squeue", "squeue"]


def test_the_account_of_an_older_job_with_the_same_id_is_not_this_jobs(commands: Any) -> None:
    old = Completed("7|COMPLETED|0:0|1000|1000|1100|n1\n", "", 0)
    seen = Slurm(runner=commands(squeue=EMPTY, sacct=old)).look_up(["7"], SINCE)
    assert seen["7"].verdict is Verdict.NOT_FOUND


def test_a_new_state_word_is_logged_once(commands: Any, caplog: pytest.LogCaptureFixture) -> None:
    rows = Completed(
        "7|N/A|DANCING|100|n1|None|hpcr-ab\n8|N/A|DANCING|100|n1|None|hpcr-ac\n", "", 0
    )
    slurm = Slurm(runner=commands(squeue=rows))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert slurm.look_up(["7", "8"], SINCE)["8"].state is JobState.RUNNING
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
    account = Completed("hpcr-ab12|17|COMPLETED|0:0|100|100|100|n1\n", "", 0)
    sought = seek(Slurm(runner=commands(squeue=EMPTY, sacct=account)), make_batch())
    assert sought.submission is not None
    assert sought.submission.job_ids == ("17",)


def test_an_array_cancelled_before_its_first_task_is_found_in_accounting(
    commands: Any, make_batch: Batches
) -> None:
    account = Completed("hpcr-ab12|17_[1-3]|CANCELLED|0:0|100|None|100|None assigned\n", "", 0)
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
    scheduler = SbatchScheduler(
        Slurm(runner=commands(sbatch=Completed("17\n", "", 0))), lambda batch: ["--array=1-2"]
    )
    assert scheduler.submit(make_batch("a1", 2)).job_ids == ("17_1", "17_2")
    assert scheduler.submit(make_batch("a2")).job_ids == ("17",)


def test_an_sbatch_that_runs_out_of_time_is_uncertain(commands: Any, make_batch: Batches) -> None:
    scheduler = SbatchScheduler(Slurm(runner=commands(sbatch=LATE)), lambda batch: [])
    with pytest.raises(SubmitUncertain):
        scheduler.submit(make_batch())


def test_an_sbatch_that_never_ran_submitted_nothing(commands: Any, make_batch: Batches) -> None:
    scheduler = SbatchScheduler(Slurm(runner=commands(sbatch=GONE)), lambda batch: [])
    with pytest.raises(SubmitRefused) as refused:
        scheduler.submit(make_batch())
    assert refused.value.passing


def test_a_cancel_that_nobody_heard_is_told(commands: Any) -> None:
    with pytest.raises(SchedulerUnavailable):
        Slurm(runner=commands(scancel=LATE)).cancel(["7"])


def test_many_uncertain_batches_cost_two_questions(commands: Any, make_batch: Batches) -> None:
    live = Completed("17|N/A|RUNNING|100|n1|None|hpcr-a1\n", "", 0)
    account = Completed("hpcr-a2|18|COMPLETED|0:0|100|100|100|n1\n", "", 0)
    ask = commands(squeue=live, sacct=account)
    batches = [make_batch(f"a{i}") for i in range(200)]
    sought = Slurm(runner=ask).seek(batches, SINCE)
    assert ask.programs == ["squeue", "sacct"]
    found = {name: s.submission.job_ids for name, s in sought.items() if s.submission}
    assert found == {"a1": ("17",), "a2": ("18",)}
    assert {s.verdict for n, s in sought.items() if n not in found} == {Verdict.NOT_FOUND}
