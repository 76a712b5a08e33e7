"""Wishes: cancel, retry and drop, asked for while the gateway is there or away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hpcrunner.gateway.experiment import Experiment, Outcome, State
from hpcrunner.gateway.selection import Selection, SelectionInvalid
from hpcrunner.gateway.spool import Verb
from hpcrunner.request.reasons import Reason
from hpcrunner.schedulers.contract import SchedulerUnavailable, SubmitRefused

FAILED = Outcome(State.FAILED, Reason.PAYLOAD_EXIT, "ended with exit code 3", exit_code=3)


@pytest.fixture
def submitted(parts: Any, message: Callable[..., bytes]) -> Callable[..., list[Experiment]]:
    def submit(count: int) -> list[Experiment]:
        for i in range(count):
            parts.pile.put(message(f"e{i}"))
        parts.intake.drain(count)
        parts.dispatch.step()
        return list(parts.journal.live())

    return submit


@pytest.fixture
def dead(parts: Any, submitted: Callable[..., list[Experiment]]) -> Callable[..., Any]:
    def die(count: int = 1) -> list[Experiment]:
        found = submitted(count)
        parts.journal.end([(e.id, FAILED) for e in found])
        return found

    return die


def test_a_wish_to_cancel_is_asked_again_until_the_scheduler_agrees(
    parts: Any, submitted: Callable[..., list[Experiment]]
) -> None:
    _, two = submitted(2)
    parts.spool.wish(Verb.CANCEL, [two.id])
    assert parts.wishes.step()
    assert not parts.wishes.step()
    parts.clock.forward(31)
    assert parts.wishes.step()
    assert parts.scheduler.cancelled == [two.job_id, two.job_id]
    assert parts.spool.wishes(Verb.CANCEL) == []
    parts.start()
    parts.wishes.step()
    assert len(parts.scheduler.cancelled) == 3, "the wish outlives the process"


def test_a_scheduler_that_is_away_is_asked_later(
    parts: Any, submitted: Callable[..., list[Experiment]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: object) -> None:
        raise SchedulerUnavailable("no answer", where="scancel")

    (e,) = submitted(1)
    parts.spool.wish(Verb.CANCEL, [e.id])
    with monkeypatch.context() as patch:
        patch.setattr(parts.scheduler, "cancel", away)
        assert not parts.wishes.step()
    assert parts.wishes.step()


def test_the_wish_stays_in_the_spool_until_it_is_journalled(
    parts: Any, submitted: Callable[..., list[Experiment]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    def crash(_: object) -> None:
        raise Crash

    (e,) = submitted(1)
    parts.spool.wish(Verb.CANCEL, [e.id])
    with monkeypatch.context() as patch:
        patch.setattr(parts.journal, "wish_cancel", crash)
        with pytest.raises(Crash):
            parts.wishes.step()
    parts.start()
    assert parts.wishes.step()


def test_a_dead_experiment_is_retried_as_a_new_one_and_its_own_ending_stays(
    parts: Any, dead: Callable[..., Any]
) -> None:
    (old,) = dead()
    parts.spool.wish(Verb.RETRY, [old.id])
    parts.wishes.step()
    (new,) = parts.journal.live()
    assert (new.key, new.queue, new.attempt) == (old.key, old.queue, 2)
    assert parts.journal.message(new.id) == parts.journal.message(old.id)
    (kept,) = parts.journal.find(old.id)
    assert (kept.state, kept.exit_code, kept.retried_as) == (State.FAILED, 3, new.id)
    assert parts.journal.aside() == []


def test_a_retry_that_is_asked_for_twice_or_crashes_half_way_runs_once(
    parts: Any, dead: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    def crash(*_: object) -> None:
        raise Crash

    (old,) = dead()
    parts.spool.wish(Verb.RETRY, [old.id])
    with monkeypatch.context() as patch:
        patch.setattr(parts.spool, "wish_taken", crash)
        with pytest.raises(Crash):
            parts.wishes.step()
    parts.start()
    parts.wishes.step()
    parts.spool.wish(Verb.RETRY, [old.id])
    parts.wishes.step()
    assert len(parts.journal.live()) == 1


def test_what_the_scheduler_refused_can_be_retried_though_its_folder_is_gone(
    parts: Any, message: Callable[..., bytes]
) -> None:
    def refuse(batch: object, accept: object) -> Any:
        raise SubmitRefused("no such partition", where="sbatch")

    parts.pile.put(message("e0"))
    parts.intake.drain(1)
    parts.scheduler.faults = [refuse]
    parts.dispatch.step()
    (dead,) = parts.journal.aside()
    parts.spool.wish(Verb.RETRY, [dead.id])
    parts.wishes.step()
    assert len(parts.journal.live()) == 1


def test_a_message_that_still_cannot_run_stays_on_the_dead_list_and_says_why(parts: Any) -> None:
    parts.pile.put(b"no request")
    parts.intake.drain(1)
    (bad,) = parts.journal.aside()
    parts.spool.wish(Verb.RETRY, [bad.id])
    parts.wishes.step()
    assert [e.id for e in parts.journal.aside()] == [bad.id]
    assert "could not be retried" in parts.journal.history(bad.id)[-1][2]


def test_what_is_dropped_leaves_the_list_and_stays_in_the_journal(
    parts: Any, dead: Callable[..., Any]
) -> None:
    (old,) = dead()
    parts.spool.wish(Verb.DROP, [old.id])
    parts.wishes.step()
    assert parts.journal.aside() == []
    assert parts.journal.find(old.id)[0].state is State.FAILED


def test_all_filters_of_a_selection_have_to_hold() -> None:
    def e(key: str, queue: str = "q", owner: str = "ann", state: State = State.PENDING) -> Any:
        return Experiment(key, key, queue, state, 1.0, owner=owner, project="p1")

    several = [e("g1-a"), e("g1-b", owner="bob"), e("g2-a", state=State.RUNNING), e("x", "r")]

    def keys(**filters: Any) -> list[str]:
        return [found.key for found in Selection(**filters).of(several)]

    assert keys() == ["g1-a", "g1-b", "g2-a", "x"]
    assert keys(match="^g1-") == ["g1-a", "g1-b"]
    assert keys(match="^g1-", owner="ann") == ["g1-a"]
    assert keys(states=["running"]) == ["g2-a"]
    assert keys(queue="r", project="p1") == ["x"]
    assert keys(project="p2") == []


@pytest.mark.parametrize("bad", [{"match": "("}, {"states": ["DONE"]}])
def test_a_filter_that_means_nothing_is_one_line(bad: dict[str, Any]) -> None:
    with pytest.raises(SelectionInvalid) as caught:
        Selection(**bad).of([])
    assert "\n" not in caught.value.line()
