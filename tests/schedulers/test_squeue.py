import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcrunner.schedulers import squeue
from hpcrunner.schedulers.command import Completed
from hpcrunner.schedulers.contract import Job, SchedulerUnavailable

Captured = Callable[[str], Completed]


def test_a_real_answer_gives_our_jobs_and_only_ours(captured: Captured) -> None:
    jobs = squeue.by_job(squeue.parse(captured("squeue_states_all.txt")))
    assert len(jobs) == 34  # of 36 jobs; "odd|name with | bars" and "two\nlines" are not ours
    assert all(job.name.startswith("hpcr-ca") for job in jobs)


def test_waiting_tasks_of_an_array_come_one_by_one_with_their_reason(captured: Captured) -> None:
    jobs = squeue.by_job(squeue.parse(captured("squeue_states_all.txt")))
    tasks = [Job(f"6750_{n}", "hpcr-ca0b") for n in (3, 5, 6, 7, 8, 9)]
    assert [job for job in jobs if job.id.startswith("6750_")] == tasks
    task = jobs[Job("6749_5", "hpcr-ca0a")]
    assert (task.word, task.pending, task.started_at) == ("PENDING", "JobArrayTaskLimit", None)


def test_a_running_job_has_node_and_start(captured: Captured) -> None:
    job = squeue.by_job(squeue.parse(captured("squeue_states_all.txt")))[Job("6741", "hpcr-ca03")]
    assert (job.word, job.node, job.started_at) == ("RUNNING", "n2", 1795226987.0)


def test_a_reason_may_hold_blanks_brackets_and_bars() -> None:
    reason = "Job's QOS not permitted to use this partition (low allows low not high) | (null)"
    [job] = squeue.parse(Completed(f"17|N/A|PENDING|N/A||{reason}|hpcr-ab\n", "", 0))
    assert job.pending == reason


def test_no_jobs_is_an_answer() -> None:
    assert squeue.parse(Completed("", "", 0)) == []


@pytest.mark.parametrize(
    "completed",
    [
        Completed("", "slurm_load_jobs error: Unable to contact slurm controller", 1),
        Completed("", "squeue: error: Invalid user: nobody", 0),
        Completed("", "", 1),
    ],
)
def test_a_failure_is_never_an_empty_queue(completed: Completed) -> None:
    with pytest.raises(SchedulerUnavailable):
        squeue.parse(completed)


def test_an_answer_that_is_cut_short_is_no_answer(captured: Captured) -> None:
    """Cut anywhere in its last row, which may even look whole: hpcr-ca03 as hpcr-ca0."""
    whole = captured("squeue_states_all.txt").stdout
    last = len(whole.rstrip("\n").rpartition("\n")[2])
    for left_out in range(1, last + 1):
        with pytest.raises(SchedulerUnavailable, match="cut short"):
            squeue.parse(Completed(whole[:-left_out], "", 0))


def test_of_jobs_with_the_same_id_each_name_has_its_own() -> None:
    rows = "17|N/A|COMPLETED|100|n1|None|hpcr-ab\n17|N/A|RUNNING|300|n2|None|hpcr-ac\n"
    jobs = squeue.by_job(squeue.parse(Completed(rows, "", 0)))
    words = {job.name: row.word for job, row in jobs.items()}
    assert words == {"hpcr-ab": "COMPLETED", "hpcr-ac": "RUNNING"}


def test_a_row_of_ours_in_another_form_is_a_failure_not_a_gone_job() -> None:
    with pytest.raises(SchedulerUnavailable, match="another form"):
        squeue.parse(Completed("17|N/A|running|soon|n1|None|hpcr-ab\n", "", 0))


def test_the_question_covers_hidden_partitions_ended_jobs_and_single_tasks() -> None:
    assert {"--me", "--all", "--array", "--states=all", "--noheader"} <= set(squeue.ARGV)


@given(st.text(), st.text(), st.integers(-1, 3))
def test_any_answer_is_read_or_refused(stdout: str, stderr: str, returncode: int) -> None:
    with contextlib.suppress(SchedulerUnavailable):
        squeue.parse(Completed(stdout, stderr, returncode))


_FIELD = st.text(st.characters(blacklist_characters="\n", blacklist_categories=["Cs"]), max_size=12)


@given(st.lists(st.lists(_FIELD, min_size=5, max_size=9).map("|".join), max_size=5))
def test_other_jobs_rows_never_hide_ours(others: list[str]) -> None:
    ours = "17|4|RUNNING|1795226987|n1|None|hpcr-ab"
    text = "".join(f"{row}\n" for row in [*others, ours, *others])
    assert Job("17_4", "hpcr-ab") in squeue.by_job(squeue.parse(Completed(text, "", 0)))
