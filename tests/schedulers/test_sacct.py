import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcrunner.schedulers import sacct
from hpcrunner.schedulers.command import Completed
from hpcrunner.schedulers.contract import Job, SchedulerUnavailable

Captured = Callable[[str], Completed]


def of_0b(job_id: str) -> Job:
    return Job(job_id, "hpcr-ca0b")


def of_0c(job_id: str) -> Job:
    return Job(job_id, "hpcr-ca0c")


def test_real_endings_are_read(captured: Captured) -> None:
    accounts = sacct.parse(captured("sacct_after_the_end.txt"))
    words = {i: accounts.jobs[i].word for i in ("1721", "1722", "1723", "1726", "1727", "1728")}
    assert words == {
        "1721": "COMPLETED",
        "1722": "FAILED",
        "1723": "TIMEOUT",
        "1726": "OUT_OF_MEMORY",
        "1727": "CANCELLED",
        "1728": "FAILED",
    }
    assert accounts.jobs["1722"].exit_code == 3
    assert accounts.jobs["1728"].signal == 9
    assert accounts.jobs["1721"].ended_at == 1795225838.0
    assert accounts.jobs["1727"].started_at is None
    assert accounts.jobs["1727"].node == ""


def test_a_step_that_ran_out_of_memory_shows_on_a_job_that_completed(captured: Captured) -> None:
    job = sacct.parse(captured("sacct_after_the_end.txt")).jobs["1725"]
    assert job.word == "COMPLETED"
    assert "OUT_OF_MEMORY" in job.step_words


def test_one_row_stands_for_all_tasks_that_never_started(captured: Captured) -> None:
    accounts = sacct.parse(captured("sacct_while_running.txt"))
    gone, waiting = accounts.find(of_0c("6751_7")), accounts.find(of_0b("6750_3"))
    assert gone is not None and gone.word == "CANCELLED"
    assert waiting is not None and waiting.word == "PENDING"
    assert accounts.find(of_0b("6750_4")) is None
    assert accounts.find(of_0c("6751")) is None


def test_a_task_that_was_cancelled_while_it_waited_has_left_its_array(captured: Captured) -> None:
    """6750 was submitted as 3-9,11; then 4 and 11 were cancelled."""
    accounts = sacct.parse(captured("sacct_while_running.txt"))
    submitted = 1795226987.0
    gone = [n for n in range(3, 12) if accounts.removed(of_0b(f"6750_{n}"), submitted)]
    assert gone == [4, 10, 11]
    assert not accounts.removed(of_0b("6750_4"), submitted + 1)  # another array had the id before
    assert not accounts.removed(Job("6741", "hpcr-ca03"), submitted)
    assert not accounts.removed(of_0b("999_1"), submitted)


def test_a_list_of_tasks_that_is_cut_short_holds_any_task_without_a_row() -> None:
    rows = (
        "7_1|COMPLETED|0:0|100|100|200|n1|hpcr-ab\n"
        "7_[2,4,...]|CANCELLED|0:0|100|None|200|None assigned|hpcr-ab\n"
    )
    accounts = sacct.parse(Completed(rows, "", 0))
    found = {index: accounts.find(Job(f"7_{index}", "hpcr-ab")) for index in (1, 9)}
    assert [job and job.word for job in found.values()] == ["COMPLETED", "CANCELLED"]


def test_a_step_without_an_exit_code_is_read() -> None:
    """As seen while a job is being cancelled."""
    rows = "1733_8|CANCELLED|0:0|5|6|7|n2|hpcr-ab\n1733_8.batch|CANCELLED||6|6|7|n2|batch\n"
    assert sacct.parse(Completed(rows, "", 0)).jobs["1733_8"].step_words == {"CANCELLED"}


def test_who_cancelled_is_not_part_of_the_state() -> None:
    row = "9|CANCELLED by 1001|0:0|5|None|7|None assigned|hpcr-ab\n"
    accounts = sacct.parse(Completed(row, "", 0))
    assert accounts.jobs["9"].word == "CANCELLED"


def test_of_a_requeued_job_the_newest_row_counts_with_its_own_steps() -> None:
    rows = (
        "9|PENDING|0:0|300|Unknown|Unknown|None assigned|hpcr-ab\n"
        "9|NODE_FAIL|0:0|100|110|200|n1|hpcr-ab\n"
        "9.batch|OUT_OF_MEMORY|0:125|110|110|200|n1|batch\n"
    )
    assert sacct.parse(Completed(rows, "", 0)).jobs["9"].word == "PENDING"


@pytest.mark.parametrize(
    "completed",
    [
        Completed("", "sacct: error: Problem talking to the database: Connection refused", 1),
        Completed("", "sacct: error: slurm_persist_conn_open_without_init: failed", 0),
        Completed("Slurm accounting storage is disabled\n", "", 1),
        Completed("17|COMPLETED\n", "", 0),
    ],
)
def test_a_failure_is_never_an_empty_account(completed: Completed) -> None:
    with pytest.raises(SchedulerUnavailable):
        sacct.parse(completed)


def test_an_answer_that_is_cut_short_is_no_answer(captured: Captured) -> None:
    """Cut anywhere in its last row, which may even look whole: hpcr-ca0d as hpcr-ca0."""
    whole = captured("sacct_while_running.txt").stdout
    last = len(whole.rstrip("\n").rpartition("\n")[2])
    for left_out in range(1, last + 1):
        with pytest.raises(SchedulerUnavailable, match="cut short"):
            sacct.parse(Completed(whole[:-left_out], "", 0))


def test_an_account_under_another_name_is_not_this_jobs(captured: Captured) -> None:
    accounts = sacct.parse(captured("sacct_while_running.txt"))
    for job_id, name in (("6739", "hpcr-ca01"), ("6742_2", "hpcr-ca04"), ("6751_7", "hpcr-ca0c")):
        assert accounts.find(Job(job_id, name)) is not None
        assert accounts.find(Job(job_id, "hpcr-ff")) is None
        assert accounts.find(Job(job_id, f"{name}0")) is None


def test_a_name_may_hold_bars_and_is_none_of_ours(captured: Captured) -> None:
    accounts = sacct.parse(captured("sacct_while_running.txt"))
    assert accounts.jobs["6747"].name == "odd|name with | bars"


def test_the_name_of_a_step_is_not_the_jobs(captured: Captured) -> None:
    accounts = sacct.parse(captured("sacct_while_running.txt"))
    assert accounts.jobs["6739"].name == "hpcr-ca01"
    assert accounts.find(Job("6739", "batch")) is None


def test_a_task_missing_in_another_batchs_array_was_not_cancelled(captured: Captured) -> None:
    accounts = sacct.parse(captured("sacct_while_running.txt"))
    submitted = 1795226987.0
    assert accounts.removed(of_0b("6750_4"), submitted)
    assert not accounts.removed(of_0c("6750_4"), submitted)


def test_a_waiting_task_is_found_beside_an_older_batchs_account_of_the_same_id() -> None:
    rows = (
        "7_1|COMPLETED|0:0|100|100|200|n1|hpcr-ab\n"
        "7_[1-3]|PENDING|0:0|300|Unknown|Unknown|None assigned|hpcr-ac\n"
    )
    accounts = sacct.parse(Completed(rows, "", 0))
    words = {name: accounts.find(Job("7_1", name)) for name in ("hpcr-ab", "hpcr-ac")}
    assert {name: job and job.word for name, job in words.items()} == {
        "hpcr-ab": "COMPLETED",
        "hpcr-ac": "PENDING",
    }
    assert not accounts.removed(Job("7_1", "hpcr-ac"), 300)
    assert not accounts.removed(Job("7_2", "hpcr-ab"), 100)  # the newer array has the id now


def test_thousands_of_tasks_are_one_question() -> None:
    ids = [f"{base}_{index}" for base in (70, 9) for index in range(1, 5001)]
    [argv] = sacct.argvs(ids)
    assert "--jobs=9,70" in argv


def test_no_question_outgrows_what_a_command_line_can_hold() -> None:
    argvs = list(sacct.argvs([str(4_000_000_000 + n) for n in range(25_000)]))
    assert len(argvs) == 3
    assert all(len(word) < 128 * 1024 for argv in argvs for word in argv)


def test_a_search_by_name_reaches_back_over_a_fast_clock_and_never_eligible_jobs() -> None:
    (argv,) = sacct.argvs_by_name(["hpcr-ab", "hpcr-ac"], 1_795_225_838.7)
    assert "--name=hpcr-ab,hpcr-ac" in argv
    assert "--starttime=uts1795222238" in argv
    assert any(word.startswith("--state=") and "PD" in word for word in argv)


@given(st.text(), st.text(), st.integers(-1, 3))
def test_any_answer_is_read_or_refused(stdout: str, stderr: str, returncode: int) -> None:
    with contextlib.suppress(SchedulerUnavailable):
        sacct.parse(Completed(stdout, stderr, returncode))


_TASKS = st.from_regex(r"[0-9,:%.-]{0,20}", fullmatch=True)
_ID = st.one_of(
    st.from_regex(r"[1-9][0-9]{0,9}(_(0|[1-9][0-9]{0,9}))?(\.batch|\.0)?", fullmatch=True),
    _TASKS.map(lambda tasks: f"12_[{tasks}]"),
)


@given(st.lists(st.tuples(_ID, st.sampled_from(["PENDING", "CANCELLED by 7", "ODD_ONE"]))))
def test_any_row_of_the_right_form_is_read(rows: list[tuple[str, str]]) -> None:
    text = "".join(f"{job}|{word}|0:0|5|6|7|n1|hpcr-ab\n" for job, word in rows)
    accounts = sacct.parse(Completed(text, "", 0))
    for job, _ in rows:
        if "[" not in job and "." not in job:
            assert accounts.find(Job(job, "hpcr-ab")) is not None
