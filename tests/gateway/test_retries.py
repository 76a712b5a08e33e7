"""Another attempt: by whose fault, how often, when, where, and never beside the one before."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hpcrunner.gateway.experiment import Experiment, Outcome, State
from hpcrunner.gateway.retries import Wish, backoff, fault_of, next_attempt, retries_left
from hpcrunner.gateway.spool import Verb
from hpcrunner.request.claim import Owner, make_claim
from hpcrunner.request.faults import Fault
from hpcrunner.request.model import RetryWish
from hpcrunner.request.reasons import Reason
from hpcrunner.request.record import Record
from hpcrunner.schedulers.contract import JobState, Sighting, SubmitRefused, Verdict
from hpcrunner.sites.parts import Retries
from hpcrunner.sites.spec import JobSpec

EXPERIMENT = Experiment("a", "k", "q", State.RUNNING, 1.0, spec=JobSpec(), batch="b", task=1)
POLICY = Retries(infrastructure=2, payload=1, backoff=10, longest_backoff=100)


def failed(reason: Reason, node: str = "n1") -> Outcome:
    state = State.LOST if reason is Reason.LOST else State.FAILED
    return Outcome(state, reason, "why", node=node)


def decide(reason: Reason, **changes: Any) -> Any:
    wish = changes.pop("wish", Wish())
    policy = changes.pop("policy", POLICY)
    return next_attempt(replace(EXPERIMENT, **changes), failed(reason), policy, wish, 1000.0)


def test_failures_of_the_infrastructure_and_of_the_payload_are_counted_apart() -> None:
    once = decide(Reason.NODE_FAIL, payload_failures=1)
    assert (once.infrastructure_failures, once.payload_failures) == (1, 1)
    assert decide(Reason.PAYLOAD_EXIT, infrastructure_failures=2).payload_failures == 1
    assert decide(Reason.PAYLOAD_EXIT, payload_failures=1) is None
    assert decide(Reason.NODE_FAIL, infrastructure_failures=2) is None


def test_a_payload_that_fails_is_not_run_again_unless_the_site_says_so() -> None:
    assert decide(Reason.PAYLOAD_EXIT, policy=Retries()) is None
    assert decide(Reason.NODE_FAIL, policy=Retries()) is not None


def test_a_request_may_lower_the_budgets_and_not_raise_them() -> None:
    none = Wish(RetryWish(infrastructure=0))
    assert decide(Reason.NODE_FAIL, wish=none) is None
    many = Wish(RetryWish(infrastructure=99, payload=99))
    assert decide(Reason.NODE_FAIL, infrastructure_failures=2, wish=many) is None


def test_each_further_attempt_waits_twice_as_long_up_to_the_longest_pause() -> None:
    assert [backoff(POLICY, n) for n in (1, 2, 3, 5, 2000)] == [10, 20, 40, 100, 100]
    assert decide(Reason.NODE_FAIL, infrastructure_failures=1).not_before == 1020.0


def test_the_next_attempt_keeps_off_a_node_that_was_at_fault_and_only_then() -> None:
    assert decide(Reason.NODE_FAIL).spec.exclude == ("n1",)
    earlier = JobSpec(exclude=("n7",))
    assert decide(Reason.SCHEDULER_FAILED, spec=earlier).spec.exclude == ("n1", "n7")
    for reason in (Reason.PREEMPTED, Reason.STORE_UNREACHABLE, Reason.PAYLOAD_EXIT):
        assert decide(reason).spec.exclude == ()
    # What all nodes share is as full on the next; it is waited for all the same.
    assert decide(Reason.NO_ROOM).spec.exclude == ()
    assert decide(Reason.NO_ROOM).infrastructure_failures == 1
    kept = Retries(exclude_nodes=False)
    assert decide(Reason.NODE_FAIL, policy=kept).spec.exclude == ()


def test_nothing_is_tried_again_that_would_end_after_its_lifetime() -> None:
    assert decide(Reason.NODE_FAIL, wish=Wish(expires_at=1005.0)) is None
    assert decide(Reason.NODE_FAIL, wish=Wish(expires_at=1015.0)) is not None


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_somebody_at_fault_or_nobody(reason: Reason) -> None:
    never = {
        Reason.COMPLETED, Reason.CANCELLED, Reason.REJECTED, Reason.SUBMIT_REFUSED,
        Reason.LIFETIME_EXPIRED, Reason.ARTIFACT_NOT_FOUND, Reason.ARTIFACT_DENIED,
        Reason.ARTIFACT_REFUSED, Reason.DISK_BUDGET, Reason.PAYLOAD_NOT_STARTED,
    }  # fmt: skip
    assert (fault_of(failed(reason)) is Fault.NONE) == (reason in never)


# -- with journal, spool and dispatch --------------------------------------------------------


NODE_FAIL = Sighting(
    Verdict.FOUND, JobState.ENDED, word="NODE_FAIL", reason=Reason.NODE_FAIL, node="n1",
    accounted=True,
)  # fmt: skip


@pytest.fixture
def submitted(parts: Any, message: Callable[..., bytes]) -> Callable[..., Experiment]:
    def submit(body: bytes = message("a")) -> Experiment:
        parts.pile.put(body)
        parts.intake.drain(1)
        parts.dispatch.step()
        (e,) = parts.journal.live()
        assert isinstance(e, Experiment)
        return e

    return submit


def fail(parts: Any, seen: Sighting = NODE_FAIL) -> Experiment:
    """The job of the one experiment ends; returns the experiment as it stands afterwards."""
    (e,) = parts.journal.live()
    parts.scheduler.sightings[e.job_id] = seen
    parts.track.step()
    parts.clock.forward(200.0)
    parts.track.step()
    (now,) = parts.journal.find(e.id)
    assert isinstance(now, Experiment)
    return now


def test_a_failed_node_gets_the_experiment_run_once_more_elsewhere(
    parts: Any, submitted: Callable[..., Experiment]
) -> None:
    first = submitted()
    waiting = fail(parts)
    assert (waiting.state, waiting.attempt) == (State.ACCEPTED, 2)
    assert "NODE_FAIL" in waiting.pending
    parts.clock.forward(3600)
    parts.dispatch.step()
    (second,) = parts.journal.live()
    assert second.batch != first.batch
    assert second.spec is not None
    assert second.spec.exclude == ("n1",)
    plan = json.loads((parts.spool.batch_folder(second.batch) / "plan.json").read_text())
    assert plan["experiments"][0]["attempt"] == 2
    script = (parts.spool.batch_folder(second.batch) / "script").read_text()
    assert "#SBATCH --exclude=n1\n" in script


@pytest.mark.parametrize("doubtful", [False, True])
def test_where_no_other_node_is_left_the_next_attempt_keeps_off_none(
    parts: Any, submitted: Callable[..., Experiment], doubtful: bool
) -> None:
    def refuse(*_: object) -> Any:
        raise SubmitRefused("no suitable nodes", passing=doubtful, doubtful=doubtful)

    submitted()
    fail(parts)
    parts.clock.forward(3600)
    parts.scheduler.faults = [refuse]
    parts.dispatch.step()
    parts.dispatch.step()
    (second,) = parts.journal.live()
    assert (second.state, second.attempt) == (State.PENDING, 2)
    assert second.spec is not None
    assert second.spec.exclude == ()


def test_an_attempt_waits_for_its_time_and_the_gateway_sleeps_until_then(
    parts: Any, submitted: Callable[..., Experiment]
) -> None:
    submitted()
    fail(parts)
    before = len(parts.scheduler.sizes)
    assert parts.dispatch.step() == 0 or len(parts.scheduler.sizes) == before + 1
    parts.clock.forward(3600)
    parts.dispatch.step()
    fail(parts)
    assert parts.dispatch.step() == 0
    wait = parts.dispatch.wait()
    assert wait is not None
    parts.clock.forward(wait)
    assert parts.dispatch.step() == 1


def test_the_ended_attempt_can_never_start_again(
    parts: Any, submitted: Callable[..., Experiment]
) -> None:
    first = submitted()
    fail(parts)
    claim = parts.spool.batch_folder(first.batch) / "claims" / "1"
    assert not make_claim(claim, 0, Owner("n1", 5, first.job_id, 1, 0.0))


def test_a_budget_that_is_used_up_puts_the_experiment_on_the_dead_list_with_its_history(
    parts: Any, submitted: Callable[..., Experiment]
) -> None:
    e = submitted()
    for _ in range(3):
        assert fail(parts).state is State.ACCEPTED
        parts.clock.forward(3600)
        parts.dispatch.step()
    ended = fail(parts)
    assert (ended.state, ended.reason, ended.attempt) == (State.FAILED, Reason.NODE_FAIL, 4)
    assert "no further one" in ended.text
    assert [a.id for a in parts.journal.aside()] == [e.id]
    assert [a.reason for a in parts.journal.attempts(e.id)] == [Reason.NODE_FAIL] * 3


def test_what_somebody_wants_cancelled_is_not_tried_again(
    parts: Any, submitted: Callable[..., Experiment]
) -> None:
    e = submitted()
    parts.spool.wish(Verb.CANCEL, [e.id])
    parts.wishes.step()
    assert fail(parts).state.final


def test_a_wish_in_the_request_is_read_from_the_message(
    parts: Any, message: Callable[..., bytes], submitted: Callable[..., Experiment]
) -> None:
    body = json.loads(message("a"))
    body["config"]["runner"] = {"retries": {"infrastructure": 0}}
    submitted(json.dumps(body).encode())
    assert fail(parts).state is State.FAILED


def test_a_lost_job_that_never_started_is_run_again_and_one_that_had_started_is_not(
    parts: Any, submitted: Callable[..., Experiment]
) -> None:
    e = submitted()
    gone = Sighting(Verdict.NOT_FOUND)

    def lose() -> Experiment:
        fail(parts, gone)
        parts.clock.forward(200)
        return fail(parts, gone)

    assert lose().state is State.ACCEPTED
    parts.clock.forward(3600)
    parts.dispatch.step()
    (second,) = parts.journal.live()
    claim = parts.spool.batch_folder(second.batch) / "claims" / "1"
    assert make_claim(claim, 0, Owner("n1", 5, second.job_id, 0, 0.0))
    assert lose().state is State.LOST
    assert [a.id for a in parts.journal.aside()] == [e.id]


def test_where_nothing_but_the_excluded_nodes_is_left_they_are_used_again(
    parts: Any, submitted: Callable[..., Experiment]
) -> None:
    submitted()
    fail(parts)
    parts.clock.forward(3600)

    def refuse(*_: object) -> Any:
        raise SubmitRefused("Requested node configuration is not available", where="sbatch")

    parts.scheduler.faults = [refuse]
    parts.dispatch.step()
    (waiting,) = parts.journal.live()
    assert (waiting.state, waiting.attempt) == (State.ACCEPTED, 2)
    parts.dispatch.step()
    (second,) = parts.journal.live()
    assert second.spec is not None
    assert (second.state, second.spec.exclude) == (State.PENDING, ())


def test_a_store_that_was_away_gets_another_attempt_from_the_record(
    parts: Any, submitted: Callable[..., Experiment]
) -> None:
    e = submitted()
    record = Record(e.batch, 1, e.id, 1, Reason.STORE_UNREACHABLE, "no answer", host="n1")
    (parts.spool.batch_folder(e.batch) / "records" / "1.json").write_text(record.to_json())
    ended = Sighting(
        Verdict.FOUND, JobState.ENDED, "FAILED", Reason.SCHEDULER_FAILED, node="n1",
        accounted=True,
    )  # fmt: skip
    waiting = fail(parts, ended)
    assert (waiting.state, waiting.attempt) == (State.ACCEPTED, 2)
    assert waiting.spec is not None
    assert waiting.spec.exclude == ()


@pytest.mark.parametrize("reason", list(Reason))
@pytest.mark.parametrize("failures", [(0, 0), (1, 0), (0, 1), (2, 1)])
@pytest.mark.parametrize("expires_at", [None, 1005.0, 1015.0])
def test_what_the_job_side_foretells_is_what_the_gateway_will_do(
    reason: Reason, failures: tuple[int, int], expires_at: float | None
) -> None:
    infrastructure, payload = failures
    changes = {"infrastructure_failures": infrastructure, "payload_failures": payload}
    for wish in (RetryWish(), RetryWish(infrastructure=1), RetryWish(payload=0)):
        told = retries_left(replace(EXPERIMENT, **changes), POLICY, wish)
        done = decide(reason, wish=Wish(wish, expires_at), **changes)
        assert told.follows(reason, expires_at, 1000.0) is (done is not None)
