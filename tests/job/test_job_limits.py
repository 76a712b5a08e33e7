"""When an attempt ends, and what its ending is called."""

from __future__ import annotations

import signal

import pytest

from hpcrunner.errors import HpcrunnerError
from hpcrunner.job.ending import Ending, ending_by, ending_of, looks_killed, with_unsaved
from hpcrunner.job.limits import (
    Stop,
    duration,
    job_deadline,
    job_end,
    reason_for,
    run_deadline,
    saving_until,
)
from hpcrunner.request.plan import NodeSetup
from hpcrunner.request.reasons import Reason
from hpcrunner.storage.contract import ArtifactDenied

SETUP = NodeSetup(scratch="/s", cache="/c", time_limit=3600.0, grace=30.0)


def test_the_job_ends_at_the_earlier_of_plan_and_scheduler() -> None:
    assert job_end(SETUP, 1000.0, {}) == 4600.0
    assert job_end(SETUP, 1000.0, {"SLURM_JOB_END_TIME": "4000"}) == 4000.0
    assert job_end(SETUP, 1000.0, {"SLURM_JOB_END_TIME": "9000"}) == 4600.0
    assert job_end(SETUP, 1000.0, {"SLURM_JOB_END_TIME": "Unknown"}) == 4600.0
    assert job_end(NodeSetup("/s", "/c"), 1000.0, {}) is None


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
        (signal.SIGTERM, 61.0, Reason.CANCELLED),
        (signal.SIGTERM, None, Reason.CANCELLED),
        (signal.SIGUSR1, 300.0, Reason.TIME_LIMIT),
        (signal.SIGUSR1, 3600.0, Reason.CANCELLED),
        (signal.SIGINT, 5.0, Reason.CANCELLED),
    ],
)
def test_a_signal_is_called_by_what_the_scheduler_means_with_it(
    signum: int, left: float | None, reason: Reason
) -> None:
    stop = reason_for(signum, 1000.0, None if left is None else 1000.0 + left)
    assert stop.reason is reason
    assert signal.Signals(signum).name in stop.text


def test_saving_ends_before_the_scheduler_kills() -> None:
    assert saving_until(1000.0, None, None, 30.0) == 1600.0
    assert saving_until(1000.0, 1020.0, None, 30.0) == 1017.0
    assert saving_until(1000.0, 9000.0, 995.0, 30.0) == 1022.0
    assert saving_until(1000.0, 1004.0, None, 6.0) == 1003.4


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
