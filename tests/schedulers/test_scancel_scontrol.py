import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcrunner.schedulers import scancel, scontrol
from hpcrunner.schedulers.command import Completed
from hpcrunner.schedulers.contract import SchedulerUnavailable
from hpcrunner.schedulers.tasks import indexes, ranges


def test_tasks_of_an_array_travel_together() -> None:
    ids = ["9", *(f"17_{n}" for n in (1, 2, 3, 7)), "17_2", "18_1"]
    assert list(scancel.argvs(ids)) == [["scancel", "9", "17_[1-3,7]", "18_[1]"]]


def test_nothing_to_end_runs_nothing() -> None:
    assert list(scancel.argvs([])) == []


def test_ids_of_another_scheduler_and_patterns_are_left_alone() -> None:
    assert list(scancel.argvs(["hpcr-ab_1", "--user=root", "17_[1-9]", "", "17_"])) == []


def test_words_and_calls_are_bounded() -> None:
    argvs = list(
        scancel.argvs([f"17_{n}" for n in range(1, 9000, 2)] + [str(n) for n in range(450)])
    )
    assert all(len(argv) <= 201 for argv in argvs)
    assert max(len(word) for argv in argvs for word in argv) < 1100


@given(st.sets(st.integers(0, 5000), min_size=1, max_size=300))
def test_every_task_is_named_once(tasks: set[int]) -> None:
    words = [word for argv in scancel.argvs([f"17_{n}" for n in tasks]) for word in argv[1:]]
    named = [n for word in words for n in sorted(indexes(word[4:-1]) or ())]
    assert sorted(named) == sorted(tasks)


@given(st.sets(st.integers(0, 10_000)))
def test_lists_of_tasks_are_read_as_they_are_written(tasks: set[int]) -> None:
    if tasks:
        assert indexes(ranges(tasks)) == tasks


@pytest.mark.parametrize("text", ["1,3,...", "0xFF", "", "5-99999999", "1-9:0", "a"])
def test_a_list_that_cannot_be_trusted_is_no_list(text: str) -> None:
    assert indexes(text) is None


def test_steps_and_throttles_are_understood() -> None:
    assert indexes("1-9:4,20%2") == {1, 5, 9, 20}


@pytest.mark.parametrize(
    "stderr",
    [
        "scancel: error: Kill job error on job id 5: Invalid job id specified",
        "scancel: error: Kill job error on job id 5: Job/step already completing or completed",
        "",
    ],
)
def test_ids_that_are_gone_are_no_error(stderr: str) -> None:
    scancel.parse(Completed("", stderr, 1 if stderr else 0))


@pytest.mark.parametrize(
    "completed",
    [
        Completed("", "scancel: error: Kill job error on job id 5: Unable to contact slurm "
                  "controller (connect failure)", 8),
        Completed("", "", 1),
    ],
)  # fmt: skip
def test_a_controller_that_is_away_has_cancelled_nothing(completed: Completed) -> None:
    with pytest.raises(SchedulerUnavailable):
        scancel.parse(completed)


def test_the_clusters_own_limits_are_read(captured: Callable[[str], Completed]) -> None:
    config = scontrol.parse(captured("scontrol_show_config.txt"))
    assert config == scontrol.ClusterConfig("22.05.8", "hpcdev", 1001, 300, True)


@given(st.text(), st.text(), st.integers(0, 2))
def test_any_answer_is_read_or_refused(stdout: str, stderr: str, code: int) -> None:
    for parse in (scontrol.parse, scancel.parse):
        with contextlib.suppress(SchedulerUnavailable):
            parse(Completed(stdout, stderr, code))
