"""The rules that make one sighting of two witnesses, as a table."""

from __future__ import annotations

import pytest

from hpcrunner.request.reasons import Reason
from hpcrunner.schedulers.contract import JobState, Verdict
from hpcrunner.schedulers.sacct import AccountedJob
from hpcrunner.schedulers.sightings import Health, sighting
from hpcrunner.schedulers.squeue import LiveJob
from hpcrunner.schedulers.states import STATES

BOTH, NO_ACCOUNTING = Health(True, True), Health(True, None)
SQUEUE_ONLY, SACCT_ONLY, NEITHER = Health(True, False), Health(False, True), Health(False, False)
ALL_HEALTH = [BOTH, NO_ACCOUNTING, SQUEUE_ONLY, SACCT_ONLY, NEITHER, Health(False, None)]


def live(word: str, node: str = "n1", pending: str = "None") -> LiveJob:
    return LiveJob("7", None, "hpcr-ab", word, 100.0, node, pending)


def account(word: str, *steps: str, exit_code: int = 0, signal: int = 0) -> AccountedJob:
    return AccountedJob(
        "7", None, "hpcr-ab", word, exit_code, signal, 90.0, 100.0, 200.0, "n1", frozenset(steps)
    )


@pytest.mark.parametrize(
    ("word", "steps", "reason"),
    [
        ("COMPLETED", ["COMPLETED"], Reason.COMPLETED),
        ("COMPLETED", ["COMPLETED", "OUT_OF_MEMORY"], Reason.OUT_OF_MEMORY),
        ("FAILED", ["OUT_OF_MEMORY"], Reason.OUT_OF_MEMORY),
        ("TIMEOUT", ["CANCELLED", "OUT_OF_MEMORY"], Reason.OUT_OF_MEMORY),
        ("OUT_OF_MEMORY", [], Reason.OUT_OF_MEMORY),
        ("FAILED", ["FAILED"], Reason.SCHEDULER_FAILED),
        ("TIMEOUT", ["CANCELLED"], Reason.TIME_LIMIT),
        ("CANCELLED", ["OUT_OF_MEMORY"], Reason.CANCELLED),
        ("PREEMPTED", ["OUT_OF_MEMORY"], Reason.PREEMPTED),
        ("NODE_FAIL", ["OUT_OF_MEMORY"], Reason.NODE_FAIL),
    ],
)
def test_the_state_word_and_its_steps_decide(word: str, steps: list[str], reason: Reason) -> None:
    seen = sighting(None, account(word, *steps), BOTH)
    assert (seen.state, seen.reason, seen.accounted) == (JobState.ENDED, reason, True)


@pytest.mark.parametrize("word", ["TIMEOUT", "CANCELLED", "OUT_OF_MEMORY", "NODE_FAIL", "DEADLINE"])
def test_a_state_word_beats_exit_code_zero(word: str) -> None:
    seen = sighting(None, account(word, exit_code=0), BOTH)
    assert seen.reason is not Reason.COMPLETED
    assert seen.exit_code is None


def test_exit_code_and_signal_are_told_apart() -> None:
    failed, killed = account("FAILED", exit_code=3), account("FAILED", signal=9)
    assert (sighting(None, failed, BOTH).exit_code, sighting(None, failed, BOTH).signal) == (
        3,
        None,
    )
    assert (sighting(None, killed, BOTH).exit_code, sighting(None, killed, BOTH).signal) == (
        None,
        9,
    )


def test_slurms_pseudo_signal_of_out_of_memory_is_no_signal() -> None:
    assert sighting(None, account("OUT_OF_MEMORY", signal=125), BOTH).signal is None


@pytest.mark.parametrize("word", [w for w, m in STATES.items() if not m.ended])
@pytest.mark.parametrize("stale", ["NODE_FAIL", "COMPLETED", "PREEMPTED"])
def test_a_live_job_is_alive_whatever_accounting_says(word: str, stale: str) -> None:
    seen = sighting(live(word), account(stale), BOTH)
    assert seen.verdict is Verdict.FOUND
    assert seen.state is not JobState.ENDED
    assert seen.reason is None


def test_an_ending_seen_live_is_kept_until_accounting_has_heard_of_it() -> None:
    for late in (None, account("RUNNING"), account("COMPLETING")):
        seen = sighting(live("COMPLETED"), late, BOTH)
        assert (seen.state, seen.reason, seen.accounted) == (
            JobState.ENDED,
            Reason.COMPLETED,
            False,
        )


def test_accounting_knows_the_steps_that_the_live_queue_hides() -> None:
    seen = sighting(live("COMPLETED"), account("COMPLETED", "OUT_OF_MEMORY"), BOTH)
    assert (seen.reason, seen.accounted) == (Reason.OUT_OF_MEMORY, True)


@pytest.mark.parametrize("word", ["TIMEOUT", "OUT_OF_MEMORY", "CANCELLED", "NODE_FAIL"])
def test_of_two_endings_the_one_that_says_more_is_taken(word: str) -> None:
    for plain in ("COMPLETED", "FAILED"):
        assert sighting(live(word), account(plain), BOTH).word == word
        assert sighting(live(plain), account(word), BOTH).word == word


def test_absent_everywhere_is_not_found_only_where_every_witness_answered() -> None:
    verdicts = {health: sighting(None, None, health).verdict for health in ALL_HEALTH}
    assert [health for health, v in verdicts.items() if v is Verdict.NOT_FOUND] == [
        BOTH,
        NO_ACCOUNTING,
    ]
    assert Verdict.FOUND not in verdicts.values()


def test_a_task_taken_out_of_its_array_was_cancelled() -> None:
    seen = {health: sighting(None, None, health, removed=True) for health in ALL_HEALTH}
    assert seen[BOTH].reason is Reason.CANCELLED
    # Without a healthy controller the task may be running, its account still on its way.
    assert seen[SACCT_ONLY].verdict is Verdict.UNAVAILABLE
    assert sighting(live("RUNNING"), None, BOTH, removed=True).state is JobState.RUNNING


def test_running_for_accounting_alone_is_an_account_never_closed() -> None:
    assert sighting(None, account("RUNNING"), BOTH).verdict is Verdict.NOT_FOUND
    assert sighting(None, account("PENDING"), BOTH).verdict is Verdict.NOT_FOUND


def test_without_the_controller_accounting_still_tells_how_things_stand() -> None:
    assert sighting(None, account("RUNNING"), SACCT_ONLY).state is JobState.RUNNING
    assert sighting(None, account("COMPLETED"), SACCT_ONLY).reason is Reason.COMPLETED


@pytest.mark.parametrize("word", ["NODE_FAIL", "PREEMPTED", "BOOT_FAIL"])
def test_an_ending_that_a_requeue_may_undo_waits_for_the_controller(word: str) -> None:
    assert sighting(None, account(word), SACCT_ONLY).verdict is Verdict.UNAVAILABLE
    assert sighting(None, account(word), BOTH).state is JobState.ENDED


def test_a_queued_job_has_a_reason_and_no_start() -> None:
    seen = sighting(live("PENDING", node="", pending="Resources"), None, BOTH)
    assert (seen.state, seen.pending, seen.started_at) == (JobState.QUEUED, "Resources", None)


def test_a_job_cancelled_before_it_had_a_node_never_started() -> None:
    seen = sighting(live("CANCELLED", node="", pending="BeginTime"), None, BOTH)
    assert (seen.started_at, seen.node, seen.pending) == (None, "", "")


@pytest.mark.parametrize("health", ALL_HEALTH)
@pytest.mark.parametrize("ours", [None, "PENDING", "RUNNING", "COMPLETED", "ODD"])
@pytest.mark.parametrize("theirs", [None, "PENDING", "RUNNING", "CANCELLED", "ODD"])
def test_an_ending_always_comes_from_a_witness_that_said_so(
    health: Health, ours: str | None, theirs: str | None
) -> None:
    seen = sighting(live(ours) if ours else None, account(theirs) if theirs else None, health)
    if seen.state is JobState.ENDED:
        assert "COMPLETED" in (ours, theirs) or "CANCELLED" in (ours, theirs)
        assert seen.reason is not None
    else:
        assert seen.reason is None
