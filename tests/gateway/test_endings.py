"""How an experiment ended: every rule of the table, row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpcrunner.gateway.endings import CONTRARY, Evidence, Patience, judge
from hpcrunner.gateway.experiment import Experiment, State
from hpcrunner.gateway.view import exit_code
from hpcrunner.request.reasons import Reason
from hpcrunner.request.record import Record
from hpcrunner.schedulers.contract import JobState, Sighting, Verdict

NOW = 1_000_000.0
PATIENCE = Patience(record=30.0, accounting=60.0, absence=300.0, has_accounting=True)
WON = Record("b", 1, "e", 1, Reason.COMPLETED, "ended well", exit_code=0, host="n1")
EXIT_3 = Record(
    "b", 1, "e", 1, Reason.PAYLOAD_EXIT, "exited with code 3", exit_code=3, last_lines=("x", "boom")
)


def ended(reason: Reason, word: str = "", **other: object) -> Sighting:
    base = Sighting(Verdict.FOUND, JobState.ENDED, word=word, reason=reason, accounted=True)
    return replace(base, **other)  # type: ignore[arg-type]


def test_success_needs_the_record_and_the_schedulers_agreement() -> None:
    outcome = judge(Evidence(ended(Reason.COMPLETED, "COMPLETED"), WON), PATIENCE, NOW)
    assert outcome is not None
    assert (outcome.state, outcome.reason) == (State.SUCCEEDED, Reason.COMPLETED)


@pytest.mark.parametrize("reason", sorted(CONTRARY))
def test_a_contrary_word_of_the_scheduler_beats_exit_code_zero(reason: Reason) -> None:
    outcome = judge(Evidence(ended(reason, reason.value), WON), PATIENCE, NOW)
    assert outcome is not None
    assert (outcome.state, outcome.reason) == (State.FAILED, reason)


def test_completed_without_a_record_is_no_success() -> None:
    seen = ended(Reason.COMPLETED, "COMPLETED", exit_code=0, node="n1")
    assert judge(Evidence(seen, None, ended_since=NOW - 29), PATIENCE, NOW) is None
    outcome = judge(Evidence(seen, None, ended_since=NOW - 30), PATIENCE, NOW)
    assert outcome is not None
    assert (outcome.state, outcome.reason) == (State.FAILED, Reason.SCHEDULER_FAILED)
    assert "without leaving a record" in outcome.text


def test_the_record_tells_the_payloads_own_ending_with_its_last_line() -> None:
    outcome = judge(Evidence(ended(Reason.SCHEDULER_FAILED, "FAILED"), EXIT_3), PATIENCE, NOW)
    assert outcome is not None
    assert (outcome.state, outcome.reason, outcome.exit_code) == (
        State.FAILED,
        Reason.PAYLOAD_EXIT,
        3,
    )
    assert outcome.text == "exited with code 3; last line: boom"


def test_a_payload_killed_for_memory_is_out_of_memory_and_not_just_exit_137() -> None:
    killed = replace(EXIT_3, exit_code=137)
    outcome = judge(Evidence(ended(Reason.OUT_OF_MEMORY, "OUT_OF_MEMORY"), killed), PATIENCE, NOW)
    assert outcome is not None
    assert outcome.reason is Reason.OUT_OF_MEMORY
    assert "memory" in outcome.text


def test_a_limit_that_the_job_side_kept_is_told_in_its_own_words() -> None:
    record = replace(EXIT_3, reason=Reason.MAX_DURATION, text="reached its max_duration of 5 s")
    outcome = judge(Evidence(ended(Reason.SCHEDULER_FAILED), record), PATIENCE, NOW)
    assert outcome is not None
    assert (outcome.reason, outcome.text) == (
        Reason.MAX_DURATION,
        "reached its max_duration of 5 s",
    )


def test_a_cancel_after_the_results_were_saved_does_not_undo_the_success() -> None:
    outcome = judge(Evidence(ended(Reason.CANCELLED, "CANCELLED"), WON), PATIENCE, NOW)
    assert outcome is not None
    assert outcome.state is State.SUCCEEDED


def test_cancelled_pending_has_no_record_and_is_cancelled() -> None:
    seen = ended(Reason.CANCELLED, "CANCELLED by 1001")
    outcome = judge(Evidence(seen, None, ended_since=NOW), PATIENCE, NOW)
    assert outcome is not None
    assert (outcome.state, outcome.reason) == (State.CANCELLED, Reason.CANCELLED)


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING, JobState.COMPLETING])
def test_nothing_ends_while_the_scheduler_has_not_ended_it(state: JobState) -> None:
    assert judge(Evidence(Sighting(Verdict.FOUND, state), WON), PATIENCE, NOW) is None


@pytest.mark.parametrize("record", [None, WON, EXIT_3])
def test_an_outage_never_ends_anything(record: Record | None) -> None:
    evidence = Evidence(Sighting(Verdict.UNAVAILABLE), record, ended_since=0.0, absent_since=0.0)
    assert judge(evidence, PATIENCE, NOW) is None


GONE = Sighting(Verdict.UNAVAILABLE, gone=True)


def test_with_accounting_away_for_long_the_record_decides_what_the_live_queue_forgot() -> None:
    """slurmdbd down: the controller keeps its accounts until it is back, which may be days."""
    assert judge(Evidence(GONE, WON, gone_since=NOW - 3599), PATIENCE, NOW) is None
    outcome = judge(Evidence(GONE, EXIT_3, gone_since=NOW - 3600), PATIENCE, NOW)
    assert outcome is not None
    assert (outcome.state, outcome.reason) == (State.FAILED, Reason.PAYLOAD_EXIT)


def test_with_accounting_away_nothing_is_lost_however_long_it_takes() -> None:
    assert judge(Evidence(GONE, gone_since=0.0, absent_since=0.0), PATIENCE, NOW) is None


STUCK = Sighting(Verdict.FOUND, JobState.QUEUED, pending="PartitionTimeLimit", stuck=True)


def test_a_job_that_can_never_start_is_set_aside_with_the_schedulers_reason() -> None:
    assert judge(Evidence(STUCK, stuck_since=NOW - 3599), PATIENCE, NOW) is None
    outcome = judge(Evidence(STUCK, stuck_since=NOW - 3600), PATIENCE, NOW)
    assert outcome is not None
    assert (outcome.state, outcome.reason) == (State.REJECTED, Reason.SUBMIT_REFUSED)
    assert "PartitionTimeLimit" in outcome.text


def test_a_job_held_after_a_failed_launch_is_the_infrastructures_failure() -> None:
    held = replace(STUCK, pending="launch failed requeued held")
    outcome = judge(Evidence(held, stuck_since=0.0), PATIENCE, NOW)
    assert outcome is not None
    assert (outcome.state, outcome.reason) == (State.FAILED, Reason.LAUNCH_FAILED)


PREEMPTED = replace(EXIT_3, reason=Reason.CANCELLED, text="cancelled from outside (SIGTERM)")


def test_the_job_side_cannot_know_who_signalled_it_but_the_scheduler_can() -> None:
    for reason in (Reason.PREEMPTED, Reason.NODE_FAIL, Reason.TIME_LIMIT, Reason.DEADLINE):
        outcome = judge(Evidence(ended(reason, reason.value), PREEMPTED), PATIENCE, NOW)
        assert outcome is not None
        assert (outcome.state, outcome.reason) == (State.FAILED, reason)


def test_a_clock_that_is_off_on_the_node_moves_no_decision() -> None:
    for skew in (-86400.0, 86400.0):
        off = replace(WON, started_at=NOW + skew, ended_at=NOW + skew + 5)
        seen = ended(Reason.COMPLETED, "COMPLETED")
        outcome = judge(Evidence(seen, off, ended_since=NOW), PATIENCE, NOW)
        assert outcome is not None
        assert outcome.state is State.SUCCEEDED


def test_lost_only_after_long_healthy_absence_without_a_record() -> None:
    absent = Sighting(Verdict.NOT_FOUND)
    assert judge(Evidence(absent, absent_since=NOW - 299), PATIENCE, NOW) is None
    outcome = judge(Evidence(absent, absent_since=NOW - 300), PATIENCE, NOW)
    assert outcome is not None
    assert outcome.state is State.LOST


def test_what_vanished_after_a_wish_to_cancel_was_cancelled() -> None:
    wished = Evidence(Sighting(Verdict.NOT_FOUND), absent_since=NOW - 29, cancel_wished=True)
    assert judge(wished, PATIENCE, NOW) is None
    outcome = judge(wished, PATIENCE, NOW + 1)
    assert outcome is not None
    assert outcome.state is State.CANCELLED


def test_a_purged_job_with_a_record_is_judged_by_it_once_accounting_had_its_time() -> None:
    absent = Sighting(Verdict.NOT_FOUND)
    assert judge(Evidence(absent, WON, absent_since=NOW - 59), PATIENCE, NOW) is None
    outcome = judge(Evidence(absent, WON, absent_since=NOW - 60), PATIENCE, NOW)
    assert outcome is not None
    assert outcome.state is State.SUCCEEDED


def test_accounting_is_given_its_time_before_the_live_queue_is_believed() -> None:
    live = replace(ended(Reason.COMPLETED, "COMPLETED"), accounted=False)
    assert judge(Evidence(live, WON, ended_since=NOW - 1), PATIENCE, NOW) is None
    outcome = judge(Evidence(live, WON, ended_since=NOW - 60), PATIENCE, NOW)
    assert outcome is not None
    assert outcome.state is State.SUCCEEDED


def test_a_site_without_accounting_does_not_wait_for_it() -> None:
    live = replace(ended(Reason.COMPLETED, "COMPLETED"), accounted=False)
    patience = replace(PATIENCE, has_accounting=False)
    outcome = judge(Evidence(live, WON, ended_since=NOW), patience, NOW)
    assert outcome is not None
    assert outcome.state is State.SUCCEEDED


@pytest.mark.parametrize(
    ("reason", "code", "ends_with"),
    [
        (Reason.PAYLOAD_EXIT, 3, 3),
        (Reason.PAYLOAD_SIGNAL, None, 1),
        (Reason.MAX_DURATION, 143, 124),
        (Reason.PAYLOAD_NOT_STARTED, 255, 1),  # a container runtime's own
        (Reason.UPLOAD_FAILED, 0, 1),
    ],
)
def test_whoever_waits_gets_the_exit_code_of_the_payload_and_of_nothing_else(
    reason: Reason, code: int | None, ends_with: int
) -> None:
    told = Experiment("a", "k", "q", State.FAILED, 1.0, reason=reason, exit_code=code)
    assert exit_code(told) == ends_with
