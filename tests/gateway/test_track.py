"""Tracking: one question for all jobs, records beside it, outcomes written once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hpcrunner.gateway.experiment import Experiment, State
from hpcrunner.gateway.spool import Verb
from hpcrunner.request.reasons import Reason
from hpcrunner.request.record import Record
from hpcrunner.schedulers.contract import JobState, Sighting, Verdict

DONE = Sighting(
    Verdict.FOUND, JobState.ENDED, word="COMPLETED", reason=Reason.COMPLETED, node="n1",
    accounted=True,
)  # fmt: skip


@pytest.fixture
def live(parts: Any, message: Callable[..., bytes]) -> Callable[..., list[Experiment]]:
    def submit(count: int) -> list[Experiment]:
        for i in range(count):
            parts.pile.put(message(f"e{i}"))
        parts.intake.drain(count)
        parts.dispatch.step()
        return list(parts.journal.live())

    return submit


def leave_record(parts: Any, e: Experiment, **changes: Any) -> None:
    record = Record(
        e.batch, e.task, e.id, e.attempt, Reason.COMPLETED, "ended well", exit_code=0, host="n1"
    )
    path = parts.spool.batch_folder(e.batch) / "records" / f"{e.task}.json"
    path.write_text(replace(record, **changes).to_json())


def test_the_number_of_questions_does_not_grow_with_the_number_of_jobs(
    parts: Any, live: Callable[..., list[Experiment]]
) -> None:
    live(400)
    parts.track.step()
    assert parts.scheduler.questions == 1


def test_record_and_scheduler_together_make_a_success(
    parts: Any, live: Callable[..., list[Experiment]]
) -> None:
    (e,) = live(1)
    leave_record(parts, e)
    parts.scheduler.sightings[e.job_id] = DONE
    assert parts.track.step() == 1
    (ended,) = parts.journal.find(e.id)
    assert (ended.state, ended.exit_code, ended.node) == (State.SUCCEEDED, 0, "n1")


def test_a_record_of_another_attempt_is_not_believed(
    parts: Any, live: Callable[..., list[Experiment]]
) -> None:
    (e,) = live(1)
    leave_record(parts, e, attempt=2)
    parts.scheduler.sightings[e.job_id] = DONE
    parts.track.step()
    parts.clock.forward(100)
    parts.track.step()
    (ended,) = parts.journal.attempts(e.id)
    assert (ended.state, ended.reason) == (State.FAILED, Reason.SCHEDULER_FAILED)


def test_a_requeued_job_is_judged_by_its_last_record(
    parts: Any, live: Callable[..., list[Experiment]]
) -> None:
    (e,) = live(1)
    leave_record(parts, e, reason=Reason.CANCELLED, text="cancelled from outside")
    parts.scheduler.sightings[e.job_id] = Sighting(Verdict.FOUND, JobState.QUEUED)
    parts.track.step()
    leave_record(parts, e)
    parts.scheduler.sightings[e.job_id] = DONE
    parts.track.step()
    (ended,) = parts.journal.find(e.id)
    assert ended.state is State.SUCCEEDED


def test_a_torn_record_is_waited_for_and_then_judged_without(
    parts: Any, live: Callable[..., list[Experiment]]
) -> None:
    (e,) = live(1)
    path = parts.spool.batch_folder(e.batch) / "records" / "1.json"
    path.write_text('{"version": 1, "batch"')
    parts.scheduler.sightings[e.job_id] = DONE
    parts.track.step()
    assert parts.journal.count_live() == 1
    leave_record(parts, e)
    parts.track.step()
    (ended,) = parts.journal.find(e.id)
    assert ended.state is State.SUCCEEDED


def test_a_long_outage_ends_nothing(parts: Any, live: Callable[..., list[Experiment]]) -> None:
    live(3)
    parts.scheduler.available = False
    for _ in range(100):
        parts.track.step()
        parts.clock.forward(3600)
    assert parts.journal.count_live() == 3


def test_absence_is_counted_only_without_a_break(
    parts: Any, live: Callable[..., list[Experiment]]
) -> None:
    (e,) = live(1)
    gone = Sighting(Verdict.NOT_FOUND)
    for sighting in (gone, Sighting(Verdict.UNAVAILABLE), gone):
        parts.scheduler.sightings[e.job_id] = sighting
        parts.track.step()
        parts.clock.forward(200)
    assert parts.journal.count_live() == 1
    parts.clock.forward(200)
    parts.track.step()
    (ended,) = parts.journal.attempts(e.id)
    assert ended.state is State.LOST


def test_running_and_why_it_waits_are_written_down(
    parts: Any, live: Callable[..., list[Experiment]]
) -> None:
    one, two = live(2)
    parts.scheduler.sightings[two.job_id] = Sighting(
        Verdict.FOUND, JobState.RUNNING, node="n2", started_at=5.0
    )
    parts.track.step()
    assert parts.journal.find(one.id)[0].pending == "Resources"
    running = parts.journal.find(two.id)[0]
    assert (running.state, running.node, running.started_at) == (State.RUNNING, "n2", 5.0)


def test_a_wish_to_cancel_reaches_the_scheduler_again_until_it_agrees(
    parts: Any, live: Callable[..., list[Experiment]]
) -> None:
    (e,) = live(1)
    parts.spool.wish(Verb.CANCEL, [e.id])
    parts.wishes.step()
    parts.start()
    parts.wishes.step()
    assert parts.scheduler.cancelled == [e.job_id, e.job_id]
    parts.scheduler.sightings[e.job_id] = replace(
        DONE, reason=Reason.CANCELLED, word="CANCELLED", node=""
    )
    parts.track.step()
    parts.wishes.step()
    (ended,) = parts.journal.find(e.id)
    assert ended.state is State.CANCELLED
    assert len(parts.scheduler.cancelled) == 2


def test_what_was_not_submitted_yet_is_cancelled_without_a_scheduler(
    parts: Any, message: Callable[..., bytes]
) -> None:
    parts.pile.put(message("a"))
    parts.intake.drain(1)
    (e,) = parts.journal.live()
    parts.spool.wish(Verb.CANCEL, [e.id])
    parts.wishes.step()
    parts.dispatch.step()
    assert parts.journal.find(e.id)[0].state is State.CANCELLED
    assert parts.scheduler.sizes == []


def test_the_outcome_survives_for_machines_without_secrets(
    parts: Any, live: Callable[..., list[Experiment]]
) -> None:
    from hpcrunner.gateway.view import details

    (e,) = live(1)
    leave_record(parts, e, last_lines=("all done",))
    parts.scheduler.sightings[e.job_id] = DONE
    parts.track.step()
    told = json.dumps(details(parts.spool, parts.journal, parts.journal.find(e.id)[0]))
    assert "all done" in told
    assert "hush-hush" not in told


def test_a_job_that_can_never_start_is_taken_out_of_the_queue_and_can_start_no_more(
    parts: Any, live: Callable[..., list[Experiment]]
) -> None:
    (e,) = live(1)
    parts.scheduler.sightings[e.job_id] = Sighting(
        Verdict.FOUND, JobState.QUEUED, pending="PartitionTimeLimit", stuck=True
    )
    parts.track.step()
    parts.clock.forward(parts.site.stuck_after)
    assert parts.track.step() == 1
    (ended,) = parts.journal.aside()
    assert (ended.state, ended.reason) == (State.REJECTED, Reason.SUBMIT_REFUSED)
    assert parts.scheduler.cancelled == [e.job_id]
    assert parts.spool.started(e.batch), "the claim is fenced"


def test_a_reason_that_passes_keeps_no_count_of_how_long_it_stood(
    parts: Any, live: Callable[..., list[Experiment]]
) -> None:
    (e,) = live(1)
    stuck = Sighting(Verdict.FOUND, JobState.QUEUED, pending="BadConstraints", stuck=True)
    for seen in (stuck, Sighting(Verdict.FOUND, JobState.QUEUED, pending="Priority"), stuck):
        parts.scheduler.sightings[e.job_id] = seen
        parts.track.step()
        parts.clock.forward(parts.site.stuck_after - 1)
    assert parts.track.step() == 0
    assert parts.journal.count_live() == 1


def test_a_folder_that_cannot_be_listed_holds_up_only_its_own_batch(
    parts: Any, message: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for cpus in (1, 2):
        parts.pile.put(message(f"e{cpus}", cpus=cpus))
    parts.intake.drain(2)
    parts.dispatch.step()
    bad, good = parts.journal.live()
    for e in (bad, good):
        leave_record(parts, e)
        parts.scheduler.sightings[e.job_id] = DONE
    listed = parts.spool.records

    def records(batch: str) -> Any:
        if batch == bad.batch:
            raise PermissionError(13, "Permission denied")
        return listed(batch)

    with monkeypatch.context() as patch:
        patch.setattr(parts.spool, "records", records)
        assert parts.track.step() == 1
    assert [e.id for e in parts.journal.live()] == [bad.id]
    assert parts.track.step() == 1
