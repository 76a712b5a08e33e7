"""When an attempt ends, and what its ending is called."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from hpcrunner.errors import HpcrunnerError
from hpcrunner.job.diskwatch import DiskWatch, disk_used
from hpcrunner.job.ending import Ending, ending_by, ending_of, looks_killed, with_unsaved
from hpcrunner.job.limits import (
    Stop,
    duration,
    job_deadline,
    job_end,
    job_start,
    killed_at,
    meaning,
    payload_until,
    run_deadline,
    saving_until,
)
from hpcrunner.request.plan import NodeSetup
from hpcrunner.request.reasons import Reason
from hpcrunner.storage.contract import ArtifactDenied

SETUP = NodeSetup(scratch="/s", cache="/c", time_limit=3600.0, grace=30.0)


def test_the_jobs_end_is_the_schedulers_word_else_the_plans_limit() -> None:
    assert job_end(SETUP, 1000.0, {}) == 4600.0
    assert job_end(SETUP, 1000.0, {"SLURM_JOB_END_TIME": "4000"}) == 4000.0
    # An administrator has given a waiting job more: it is told at the start.
    assert job_end(SETUP, 1000.0, {"SLURM_JOB_END_TIME": "9000"}) == 9000.0
    assert job_end(NodeSetup("/s", "/c"), 1000.0, {"SLURM_JOB_END_TIME": "9000"}) == 9000.0
    assert job_end(NodeSetup("/s", "/c"), 1000.0, {}) is None


@pytest.mark.parametrize("odd", ["Unknown", "", "0", "999", "nan"])
def test_an_end_that_cannot_be_is_not_believed(odd: str) -> None:
    assert job_end(SETUP, 1000.0, {"SLURM_JOB_END_TIME": odd}) == 4600.0


def test_the_jobs_time_counts_from_its_own_start_not_from_ours() -> None:
    assert job_start({}, 1000.0) == 1000.0
    assert job_start({"SLURM_JOB_START_TIME": "970"}, 1000.0) == 970.0
    for odd in ("", "0", "Unknown", "1001"):
        assert job_start({"SLURM_JOB_START_TIME": odd}, 1000.0) == 1000.0


def test_a_job_is_stopped_its_grace_before_the_limit() -> None:
    deadline = job_deadline(SETUP, 1000.0, 4600.0)
    assert deadline.at == 4570.0
    assert deadline.stop == Stop(Reason.TIME_LIMIT, "reached the job's time limit of 1h")


def test_a_job_shorter_than_its_grace_keeps_half_of_its_time() -> None:
    assert job_deadline(SETUP, 1000.0, 1020.0).at == 1010.0


def test_max_duration_counts_from_the_start_of_the_payload() -> None:
    deadline = run_deadline(600.0, 50.0)
    assert deadline.at == 650.0
    assert deadline.stop == Stop(Reason.MAX_DURATION, "reached its max_duration of 10m")


@pytest.mark.parametrize(
    ("signum", "left", "reason"),
    [
        (signal.SIGTERM, 30.0, Reason.TIME_LIMIT),
        (signal.SIGTERM, -40.0, Reason.TIME_LIMIT),  # Slurm enforces limits with some delay
        (signal.SIGTERM, 61.0, Reason.CANCELLED),
        (signal.SIGTERM, None, Reason.CANCELLED),
        (signal.SIGUSR1, None, Reason.TIME_LIMIT),  # the partition's limit, which no plan knows
        (signal.SIGUSR1, 121.0, Reason.CANCELLED),  # long before the limit: somebody else's
        (signal.SIGUSR1, 3600.0, Reason.CANCELLED),
        (signal.SIGINT, 5.0, Reason.CANCELLED),
        (signal.SIGHUP, 5.0, Reason.CANCELLED),
    ],
)
def test_a_signal_is_called_by_what_the_scheduler_means_with_it(
    signum: int, left: float | None, reason: Reason
) -> None:
    stop = meaning(signum, 1000.0, None if left is None else 1000.0 + left, 30.0)
    assert stop is not None
    assert stop.reason is reason
    assert signal.Signals(signum).name in stop.text


@pytest.mark.parametrize("left", [120.0, 90.0, 30.0, 1.0, -1.0])
def test_the_announced_limit_leaves_the_payload_the_time_up_to_our_own_deadline(
    left: float,
) -> None:
    assert meaning(signal.SIGUSR1, 1000.0, 1000.0 + left, 30.0) is None


def test_the_kill_follows_a_sigterm_by_killwait_whatever_was_planned() -> None:
    setup = replace(SETUP, kill_wait=20.0, grace=50.0)
    assert killed_at(signal.SIGTERM, 1000.0, 1002.0, setup) == 1020.0
    assert killed_at(signal.SIGTERM, 1000.0, None, setup) == 1020.0
    assert killed_at(signal.SIGUSR1, 1000.0, None, setup) == 1050.0
    assert killed_at(signal.SIGUSR1, 1000.0, 9000.0, setup) == 9000.0
    assert killed_at(signal.SIGINT, 1000.0, None, setup) is None


def test_a_payload_gets_its_grace_and_half_of_what_is_left_at_most() -> None:
    setup = replace(SETUP, payload_grace=10.0)
    assert payload_until(setup, 1000.0, None, None) == 1010.0
    assert payload_until(setup, 1000.0, None, 1030.0) == 1010.0
    assert payload_until(setup, 1000.0, None, 1005.0) == 1002.5
    # It had all the time there is when the scheduler's own SIGTERM came.
    assert payload_until(replace(setup, payload_grace=300.0), 1000.0, 1100.0, 1130.0) == 1115.0


def test_saving_ends_before_the_scheduler_kills_and_leaves_time_for_the_record() -> None:
    assert saving_until(1000.0, None) == 1600.0
    assert saving_until(1000.0, 9000.0) == 1600.0
    assert saving_until(1000.0, 1020.0) == 1017.0
    assert saving_until(1000.0, 1004.0) == 1003.0
    assert saving_until(1000.0, 990.0) == 990.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(600, "10m"), (3661, "1h1m1s"), (0.4, "0.4s"), (0, "0s"), (2.5, "2.5s"), (90000, "25h")],
)
def test_durations_read_as_people_write_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_an_exit_code_a_signal_and_a_stop_are_told_apart() -> None:
    assert ending_of(0, None) == Ending(Reason.COMPLETED, "ended with exit code 0", 0)
    assert ending_of(3, None) == Ending(Reason.PAYLOAD_EXIT, "ended with exit code 3", 3)
    assert ending_of(-11, None) == Ending(Reason.PAYLOAD_SIGNAL, "ended by SIGSEGV", None, 11)
    stop = Stop(Reason.MAX_DURATION, "too long")
    assert ending_of(-9, stop) == Ending(Reason.MAX_DURATION, "too long", None, 9)
    assert ending_of(0, stop).reason is Reason.MAX_DURATION
    assert ending_of(-64, None).text == "ended by SIGRTMAX"
    assert ending_of(-40, None).text == "ended by signal 40"


def test_the_exit_status_is_the_payloads_own() -> None:
    assert ending_of(3, None).status == 3
    assert ending_of(-9, None).status == 137
    assert Ending(Reason.TIME_LIMIT, "").status == 124
    assert Ending(Reason.JOB_SIDE_FAULT, "").status == 70
    assert all(Ending(reason, "").status != 0 for reason in Reason if reason.name != "COMPLETED")


def test_an_error_brings_its_own_reason() -> None:
    assert ending_by(ArtifactDenied("no", where="s3://b/k")).reason is Reason.ARTIFACT_DENIED
    assert ending_by(HpcrunnerError("odd")).reason is Reason.JOB_SIDE_FAULT


def test_unsaved_results_are_no_success_and_never_hide_a_failure() -> None:
    good, bad = ending_of(0, None), ending_of(3, None)
    assert with_unsaved(good, []) == good
    assert with_unsaved(good, ["a", "b"]).reason is Reason.UPLOAD_FAILED
    assert with_unsaved(good, ["a", "b"]).text == "a; b"
    assert with_unsaved(bad, ["a"]) == Ending(
        Reason.PAYLOAD_EXIT, "ended with exit code 3; a", exit_code=3
    )


def test_only_endings_that_a_signal_can_explain_wait_for_one() -> None:
    codes = (0, 1, 128, -signal.SIGSEGV, 143, -15, -9)
    assert [looks_killed(code) for code in codes] == [False] * 4 + [True] * 3


def test_a_payload_that_outgrows_its_disk_is_stopped_with_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("hpcrunner.job.diskwatch.time.monotonic", lambda: clock[0])
    watch = DiskWatch(tmp_path, 100_000)
    assert watch() is None
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"x" * 200_000)
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(10**9)
    assert watch() is None  # a minute has not gone by
    clock[0] += 61
    stop = watch()
    assert stop is not None
    assert stop.reason is Reason.DISK_BUDGET
    assert "more than the 100 kB of its resources_needed.hdd" in stop.text


def test_what_vanishes_while_it_is_measured_counts_nothing(tmp_path: Path) -> None:
    assert disk_used(tmp_path / "missing") == 0
    (tmp_path / "dangling").symlink_to("nowhere")
    assert disk_used(tmp_path) == 0
