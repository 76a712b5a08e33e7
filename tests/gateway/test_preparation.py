"""Experiments wait until what they need has been prepared, and nothing is submitted before."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.gateway.dispatch import Dispatch
from hpcrunner.gateway.experiment import Experiment, State
from hpcrunner.gateway.happenings import Ended, Retried
from hpcrunner.gateway.preparation import (
    GATHER,
    QUIET,
    READY,
    Attempt,
    Failed,
    Preparations,
    Standing,
    Waiting,
)
from hpcrunner.gateway.spool import Verb
from hpcrunner.request.plan import PlannedExperiment, read_plan
from hpcrunner.request.reasons import Reason

FETCHING = Waiting("fetching 1 of 2 artifacts")


@dataclass
class Kind:
    """A preparation that stands as the test says; ``all`` is for those it says nothing of."""

    all: Standing = FETCHING
    standings: dict[str, Standing] = field(default_factory=dict)
    wanted: list[Attempt] = field(default_factory=list)
    under_way: set[Attempt] = field(default_factory=set)
    closed: bool = False

    def want(self, experiment: Experiment, planned: PlannedExperiment) -> None:
        assert planned.id == experiment.id
        self.wanted.append((experiment.id, experiment.attempt))
        self.under_way.add((experiment.id, experiment.attempt))

    def standing(self, experiment: Experiment) -> Standing | None:
        if (experiment.id, experiment.attempt) not in self.under_way:
            return None
        return self.standings.get(experiment.key, self.all)

    def apply(self, experiment: Experiment, planned: PlannedExperiment) -> PlannedExperiment:
        return replace(planned, args=(*planned.args, "prepared"))

    def step(self, wanted: Collection[Attempt]) -> None:
        self.under_way &= set(wanted)

    def close(self) -> None:
        self.closed = True


@dataclass
class Prepared:
    """A gateway's parts with that preparation."""

    parts: Any
    kind: Kind
    told: list[Any] = field(default_factory=list)
    largest_array: int = 4

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        p = self.parts
        self.kind.under_way.clear()
        self.dispatch = Dispatch(
            p.journal,
            p.spool,
            p.scheduler,
            p.site,
            clock=p.clock,
            new_id=lambda: f"{next(p.ids):012x}",
            tell=self.told.append,
            preparations=Preparations([self.kind], clock=p.clock, largest_array=self.largest_array),
        )
        self.dispatch.recover()

    def take(self, *bodies: bytes) -> None:
        for body in bodies:
            self.parts.pile.put(body)
        self.parts.intake.drain(1000)

    def of(self, key: str) -> Experiment:
        found: Experiment = self.parts.journal.find(key)[-1]
        return found


@pytest.fixture
def prepared(parts: Any) -> Prepared:
    return Prepared(parts, Kind())


def test_nothing_is_submitted_before_it_is_prepared_and_status_says_why(
    prepared: Prepared, message: Callable[..., bytes]
) -> None:
    prepared.take(message("a"))
    assert prepared.dispatch.step() == 0
    assert prepared.of("a").state is State.ACCEPTED
    assert prepared.of("a").pending == "fetching 1 of 2 artifacts"
    pause = prepared.dispatch.wait()
    assert pause is not None and pause > 0.1, "the loop would spin while it waits"
    prepared.kind.all = READY
    assert prepared.dispatch.step() == 1
    (batch,) = prepared.parts.spool.batch_names()
    plan = read_plan(Path(prepared.parts.spool.batch_folder(batch)))
    assert plan.experiments[0].args[-1] == "prepared"
    assert prepared.of("a").pending == ""
    assert prepared.kind.wanted == [(prepared.of("a").id, 1)]


def test_a_failed_preparation_ends_the_attempt_and_another_follows_by_the_budgets(
    prepared: Prepared, message: Callable[..., bytes]
) -> None:
    prepared.take(message("a"), message("b"))
    prepared.kind.standings = {
        "a": Failed(Reason.STORE_UNREACHABLE, "no answer"),
        "b": Failed(Reason.ARTIFACT_NOT_FOUND, "no such object"),
    }
    prepared.dispatch.step()
    a, b = prepared.of("a"), prepared.of("b")
    assert (a.state, a.attempt, a.infrastructure_failures) == (State.ACCEPTED, 2, 1)
    assert (b.state, b.reason, b.text) == (
        State.FAILED,
        Reason.ARTIFACT_NOT_FOUND,
        "no such object",
    )
    assert b.aside
    assert [type(t) for t in prepared.told] == [Retried, Ended]
    (former,) = prepared.parts.journal.attempts(a.id)
    assert (former.reason, former.batch, former.job_id) == (Reason.STORE_UNREACHABLE, "", "")
    for _ in range(20):  # until the budget is used up
        prepared.parts.clock.forward(3600.0)
        prepared.dispatch.step()
    assert prepared.of("a").state is State.FAILED
    assert prepared.of("a").attempt == 1 + prepared.parts.site.retries.infrastructure
    assert prepared.parts.scheduler.reached == {}
    assert prepared.parts.spool.batch_names() == []


def test_what_is_cancelled_while_it_is_prepared_is_prepared_no_more(
    prepared: Prepared, message: Callable[..., bytes]
) -> None:
    prepared.take(message("a"))
    prepared.dispatch.step()
    assert len(prepared.kind.under_way) == 1
    prepared.parts.spool.wish(Verb.CANCEL, [prepared.of("a").id])
    prepared.parts.wishes.step()
    prepared.dispatch.step()
    assert prepared.of("a").state is State.CANCELLED
    assert prepared.kind.under_way == set()


def test_a_generation_that_is_still_being_prepared_travels_as_one_array(
    prepared: Prepared, message: Callable[..., bytes]
) -> None:
    prepared.take(*map(message, "abc"))
    prepared.kind.standings = {"a": READY, "b": READY}
    assert prepared.dispatch.step() == 0
    assert prepared.of("a").pending == "is prepared; waits for 1 more of its shape"
    prepared.kind.standings["c"] = Failed(Reason.ARTIFACT_NOT_FOUND, "gone")
    assert prepared.dispatch.step() == 2
    assert prepared.parts.scheduler.sizes == [2]


def test_ready_ones_wait_for_others_of_their_shape_for_a_while_only(
    prepared: Prepared, message: Callable[..., bytes]
) -> None:
    prepared.take(*map(message, "abcde"), message("wide", cpus=2))
    prepared.kind.standings = {"a": READY, "wide": READY}
    assert prepared.dispatch.step() == 1, "another shape waits for nobody"
    prepared.parts.clock.forward(QUIET - 1)
    prepared.kind.standings.update(b=READY)
    assert prepared.dispatch.step() == 0
    prepared.parts.clock.forward(QUIET - 1)
    assert prepared.dispatch.step() == 0, "while others become ready, it is worth it"
    prepared.parts.clock.forward(1)
    assert prepared.dispatch.step() == 2
    prepared.kind.standings.update(c=READY)
    assert prepared.dispatch.step() == 0, "what comes later waits anew"
    prepared.take(*map(message, "fghi"))
    prepared.kind.standings.update(f=READY, g=READY, h=READY)
    assert prepared.dispatch.step() == 4, "a full array has nothing to wait for"
    assert prepared.parts.scheduler.sizes == [1, 2, 4]


def test_a_generation_that_goes_on_growing_is_not_waited_for_for_ever(
    prepared: Prepared, message: Callable[..., bytes]
) -> None:
    prepared.largest_array = 1000
    prepared.start()
    prepared.take(message("never"))
    sizes = prepared.parts.scheduler.sizes
    for number in range(100):
        prepared.kind.standings[str(number)] = READY
        prepared.take(message(str(number)))
        prepared.dispatch.step()
        if sizes:
            break
        prepared.parts.clock.forward(QUIET / 2)
    assert sizes == [GATHER / (QUIET / 2) + 1]


def test_after_a_crash_what_was_prepared_is_wanted_again_and_runs_once(
    prepared: Prepared, message: Callable[..., bytes]
) -> None:
    prepared.take(message("a"))
    prepared.dispatch.step()
    prepared.start()
    prepared.dispatch.step()
    attempt = (prepared.of("a").id, 1)
    assert prepared.kind.wanted == [attempt, attempt]
    prepared.kind.all = READY
    assert prepared.dispatch.step() == 1
    prepared.start()
    assert prepared.dispatch.step() == 0
    assert list(prepared.parts.scheduler.reached.values()) == [1]
