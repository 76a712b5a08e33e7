"""The gateway against a Slurm that does all it may do, and against its own death at any place.

Hypothesis draws what clients, people, the cluster and its servers do, in any order; world.py
checks after each round of the gateway that no promise is broken, and at the end, when every
fault is over, that each experiment came to the ending that the world knows to be true.

``HPCRUNNER_MODEL_EXAMPLES=2000`` draws that many examples, at random, of
``HPCRUNNER_MODEL_STEPS`` steps each; without it the same few are drawn each time.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from typing import Any

import pytest
from deaths import crashpoints
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from nodes import NODES
from slurm.cluster import DOWN, HANGS, UP, Fault
from truth import CANCELLED
from world import World

from hpcrunner.gateway.experiment import State
from hpcrunner.request.reasons import Reason

_EXAMPLES = os.environ.get("HPCRUNNER_MODEL_EXAMPLES")
_STEPS = int(os.environ.get("HPCRUNNER_MODEL_STEPS", "50"))

# How a run ends: Slurm's word, the record it leaves, and more.
ENDINGS = {
    "well": ("COMPLETED", Reason.COMPLETED, {}),
    "payload fails": ("FAILED", Reason.PAYLOAD_EXIT, {"code": 3}),
    "killed by a signal": ("FAILED", Reason.PAYLOAD_SIGNAL, {"code": 137}),
    "job side dies": ("FAILED", None, {"code": 1, "signal": 9}),
    "script ends without a record": ("COMPLETED", None, {}),
    "a step runs out of memory": ("COMPLETED", Reason.COMPLETED, {"step": "OUT_OF_MEMORY"}),
    "out of memory": ("OUT_OF_MEMORY", None, {}),
    "out of memory, seen by the job side": ("OUT_OF_MEMORY", Reason.PAYLOAD_SIGNAL, {}),
    "time limit": ("TIMEOUT", None, {}),
    "time limit kept by the job side": ("FAILED", Reason.TIME_LIMIT, {"code": 124}),
    "time limit, saved in time": ("TIMEOUT", Reason.CANCELLED, {}),
    "store away": ("FAILED", Reason.STORE_UNREACHABLE, {"code": 69}),
    "node fails": ("NODE_FAIL", None, {}),
    "node fails after the record": ("NODE_FAIL", Reason.COMPLETED, {}),
    "node does not boot": ("BOOT_FAIL", None, {}),
    "deadline": ("DEADLINE", Reason.CANCELLED, {}),
}
WHICH = st.integers(0, 7)
# Seconds until the gateway's next round, if there is one before something else happens.
PAUSES = st.sampled_from([None, None, 1.0, 15.0, 100.0])


def happens(**drawn: Any) -> Callable[[Callable[..., None]], Any]:
    """A rule after which the gateway may do a round."""

    def decorate(method: Callable[..., None]) -> Any:
        @functools.wraps(method)
        def then_a_round(self: Any, pause: float | None, **values: Any) -> None:
            method(self, **values)
            if pause is not None:
                self.world.rounds(pause)

        return rule(pause=PAUSES, **drawn)(then_a_round)

    return decorate


ENDS = st.fixed_dictionaries(
    {
        "how": st.one_of(st.just("well"), st.sampled_from(sorted(ENDINGS))),
        "delay": st.sampled_from([0.0, 0.0, 5.0, 60.0]),
        "completing": st.booleans(),
        "requeue": st.booleans(),
    }
)
REFUSALS = [
    ("Invalid partition name specified", True),
    # May be set aside, after a while at most: see test_found_faults.py.
    ("Job violates accounting/QOS policy (job submit limit, user's size and/or time)", True),
    ("Slurm temporarily unable to accept job, sleeping and retrying", False),
]
SBATCH = [
    "hang",
    "hang_after",
    "socket_timeout",
    "socket_after",
    "banner",
    "silent",
    "garbage",
    "killed",
]
FAULTS = st.one_of(
    st.tuples(st.just("sbatch"), st.sampled_from(SBATCH), st.just(0.5)),
    # Less than the site's settle time: what comes after it is in test_found_faults.py.
    st.tuples(st.just("sbatch"), st.just("socket_late"), st.sampled_from([5.0, 25.0])),
    st.tuples(st.just("sbatch"), st.just("refuse"), st.sampled_from(REFUSALS)),
    st.tuples(
        st.sampled_from(["squeue", "sacct", "scancel"]),
        st.sampled_from(["hang", "killed", "warn"]),
        st.floats(0, 1),
    ),
)


def pick(found: Any, which: int) -> Any:
    """One of what is there now, drawn beforehand."""
    return found[which % len(found)]


def _preempted(world: World, which: int) -> None:
    if world.nodes.running():
        at = pick(world.nodes.running(), which)
        world.cluster.tell(*at, world.now, requeue=world.site.requeue)


def _never_runs(word: str) -> Callable[[World, int], None]:
    def end(world: World, which: int) -> None:
        if world.nodes.waiting():
            world.nodes.never_ran(pick(world.nodes.waiting(), which), word)

    return end


def _cancelled_by_an_admin(world: World, which: int) -> None:
    world.cluster.cancel(pick(sorted(world.cluster.jobs), which), None, world.now)
    world.check()


def _requeued_by_an_admin(hold: str) -> Callable[[World, int], None]:
    def requeue(world: World, which: int) -> None:
        found = world.nodes.running() + world.nodes.ended()
        if found:
            world.nodes.requeue(pick(found, which), hold)

    return requeue


def _released(world: World, which: int) -> None:
    if world.nodes.held():
        world.cluster.release(*pick(world.nodes.held(), which))


def _all_forgotten(world: World, which: int) -> None:
    if which == 0:  # or little else would be left to see
        world.nodes.cold_start(flush=len(world.nodes.ledger) % 2 == 0)


MISHAPS: dict[str, Callable[[World, int], None]] = {
    "preempted": _preempted,
    "reaches its deadline": _never_runs("DEADLINE"),
    "does not boot": _never_runs("BOOT_FAIL"),
    "cancelled by an admin": _cancelled_by_an_admin,
    "requeued by an admin": _requeued_by_an_admin(""),
    "requeued and held": _requeued_by_an_admin("REQUEUE_HOLD"),
    "requeued as a special exit": _requeued_by_an_admin("SPECIAL_EXIT"),
    "released": _released,
    "forgotten by the controller": _all_forgotten,
}


class GatewayModel(RuleBasedStateMachine):
    @initialize(
        requeue=st.booleans(),
        retries=st.integers(0, 3),
        count=st.integers(2, 8),
        accounting=st.sampled_from(["slurmdbd", "slurmdbd", "none"]),
    )
    def begin(self, requeue: bool, retries: int, count: int, accounting: str) -> None:
        budgets = {"infrastructure": retries, "payload": 1}
        self.world = World(requeue=requeue, retries=budgets, accounting={"mode": accounting})
        for number in range(count):
            self.world.publish(cpus=1 + number % 2)
        self.world.step()

    # -- the gateway -----------------------------------------------------------------------

    @rule(seconds=st.sampled_from([5.0, 30.0, 130.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.rounds(seconds)

    @rule(seconds=st.sampled_from([0.0, 60.0, 400.0, 4000.0]))
    def it_is_started_again(self, seconds: float) -> None:
        self.world.pass_time(seconds)
        self.world.start_gateway()

    @rule(after=st.integers(1, 25), seconds=st.sampled_from([1.0, 15.0]))
    def it_dies_somewhere(self, after: int, seconds: float) -> None:
        self.world.pass_time(seconds)
        self.world.step(crash_in=after)

    @rule(name=st.sampled_from(crashpoints()), seconds=st.sampled_from([1.0, 15.0]))
    def it_dies_at_a_named_place(self, name: str, seconds: float) -> None:
        self.world.pass_time(seconds)
        self.world.step(crash_at=name)

    # -- clients and people ----------------------------------------------------------------

    @happens(count=st.integers(1, 6), cpus=st.integers(1, 2))
    def clients_publish(self, count: int, cpus: int) -> None:
        for _ in range(count):
            self.world.publish(cpus)

    @precondition(lambda self: self.world.queue.settled)
    @happens(which=WHICH, flagged=st.booleans())
    def a_message_comes_again(self, which: int, flagged: bool) -> None:
        live = {self.world.journal.message(e.id) for e in self.world.journal.live()}
        again = [body for body in self.world.queue.settled if body in live]
        if again:
            self.world.queue.put(pick(again, which), redelivered=flagged)

    @happens(which=WHICH)
    def somebody_cancels(self, which: int) -> None:
        live = self.world.journal.live()
        if live:
            self.world.wish_cancel(pick(live, which).id)

    # -- the cluster -----------------------------------------------------------------------

    def _up(self) -> bool:
        return self.world.cluster.controller == UP

    @precondition(lambda self: self._up() and self.world.nodes.waiting())
    @happens(count=st.integers(1, 6), which=WHICH)
    def jobs_start(self, count: int, which: int) -> None:
        for number in range(count):
            waiting = self.world.nodes.waiting()
            if waiting:
                self.world.nodes.start(pick(waiting, which), NODES[number % len(NODES)])

    @precondition(lambda self: self.world.nodes.running())
    @happens(ends=st.lists(st.tuples(WHICH, ENDS), min_size=1, max_size=3))
    def runs_end(self, ends: list[tuple[int, dict[str, Any]]]) -> None:
        self._end_some(ends)

    def _end_some(self, ends: list[tuple[int, dict[str, Any]]]) -> None:
        for which, end in ends:
            if self.world.nodes.running():
                self._end(pick(self.world.nodes.running(), which), **end)

    def _end(
        self, at: tuple[int, int | None], how: str, delay: float, completing: bool, requeue: bool
    ) -> None:
        word, record, more = ENDINGS[how]
        if word == "NODE_FAIL" and record is not None:
            delay *= 4  # a node that was only cut off: its job goes on for a while
        may = word in ("NODE_FAIL", "BOOT_FAIL") and record is None and self.world.site.requeue
        note(f"{at}: {how}")
        self.world.nodes.end(
            at,
            word,
            record,
            delay=0.0 if requeue and may else delay,
            requeue=requeue and may,
            completing=completing,
            **more,
        )

    def the_cluster_works(self, count: int, ends: list[tuple[int, dict[str, Any]]]) -> None:
        if self._up():
            for number, at in enumerate(self.world.nodes.waiting()[:count]):
                self.world.nodes.start(at, NODES[number % len(NODES)])
            self.world.rounds(30.0)
        self._end_some(ends)

    # Hypothesis draws rules alike often; without work done there is little to go wrong.
    works = st.lists(st.tuples(WHICH, ENDS), min_size=1, max_size=4)
    day = happens(count=st.integers(1, 8), ends=works)(the_cluster_works)
    evening = happens(count=st.integers(1, 8), ends=works)(the_cluster_works)
    night = happens(count=st.integers(1, 8), ends=works)(the_cluster_works)

    @precondition(lambda self: self.world.nodes.completing())
    @happens(
        which=WHICH,
        record=st.sampled_from([Reason.CANCELLED, Reason.COMPLETED, None]),
        delay=st.sampled_from([0.0, 30.0]),
    )
    def the_node_is_done_with_it(self, which: int, record: Reason | None, delay: float) -> None:
        at = pick(self.world.nodes.completing(), which)
        if record is Reason.COMPLETED and self.world.nodes.task(at).requeues:
            record = None
        self.world.nodes.finish(at, record, delay=delay)

    @precondition(lambda self: self._up() and self.world.cluster.jobs)
    @happens(what=st.sampled_from(sorted(MISHAPS)), which=WHICH)
    def something_happens_to_a_job(self, what: str, which: int) -> None:
        MISHAPS[what](self.world, which)

    # -- its servers -----------------------------------------------------------------------

    @happens(
        server=st.sampled_from(["controller", "database"]),
        how=st.sampled_from([DOWN, HANGS]),
        seconds=st.sampled_from([20.0, 100.0, 500.0, 5000.0]),
        meanwhile=st.sampled_from([0.0, 400.0]),
    )
    def a_server_goes_away(self, server: str, how: str, seconds: float, meanwhile: float) -> None:
        self.world.outage(server, how, seconds)
        self.world.rounds(meanwhile)

    @happens(seconds=st.sampled_from([0.0, 10.0, 60.0]))
    def accounting_lags(self, seconds: float) -> None:
        self.world.cluster.refresh_accounts(self.world.now)
        self.world.cluster.lag = seconds

    @happens(faults=st.lists(FAULTS, min_size=1, max_size=3))
    def calls_will_go_wrong(self, faults: list[tuple[str, str, object]]) -> None:
        for program, kind, value in faults:
            if kind == "refuse":
                self.world.refuse(*value)  # type: ignore[misc]
            else:
                self.world.cluster.faults.append(Fault(program, kind, value))

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.world.play_out()
        finally:
            self.world.close()


TestGatewayModel = pytest.mark.timeout(1800)(GatewayModel.TestCase)  # of CPU, on a busy machine
TestGatewayModel.settings = settings(
    max_examples=int(_EXAMPLES or 60),
    stateful_step_count=_STEPS,
    derandomize=_EXAMPLES is None,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="hpcrunner")


def test_the_world_itself_ends_what_is_cancelled_before_it_is_submitted() -> None:
    world = World()
    try:
        world.publish()
        world.cluster.controller = DOWN
        world.step()
        (e,) = world.experiments()
        world.wish_cancel(e.id)
        world.play_out()
        (e,) = world.experiments()
        assert (e.state, e.reason) in (CANCELLED, (State.CANCELLED, Reason.CANCELLED))
    finally:
        world.close()
