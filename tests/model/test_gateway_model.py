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
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from slurm.cluster import DOWN, HANGS, UP, Fault
from world import CANCELLED, NODES, World, crashpoints

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
        def then_a_round(self: GatewayModel, pause: float | None, **values: Any) -> None:
            method(self, **values)
            if pause is not None:
                self.world.rounds(pause)

        return rule(pause=PAUSES, **drawn)(then_a_round)

    return decorate


SBATCH_FAULTS = ["hang", "hang_after", "socket_timeout", "socket_after", "banner", "silent",
                 "garbage", "killed"]  # fmt: skip


class GatewayModel(RuleBasedStateMachine):
    @initialize(requeue=st.booleans(), retries=st.integers(0, 3), count=st.integers(1, 6))
    def begin(self, requeue: bool, retries: int, count: int) -> None:
        self.world = World(requeue=requeue, retries={"infrastructure": retries, "payload": 1})
        for _ in range(count):
            self.world.publish()

    def pick(self, found: list, which: int):  # type: ignore[no-untyped-def, type-arg]
        return found[which % len(found)]

    # -- the gateway -----------------------------------------------------------------------

    @rule(seconds=st.sampled_from([5.0, 30.0, 130.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.rounds(seconds)

    @rule(seconds=st.sampled_from([60.0, 400.0, 4000.0]))
    def it_is_away_for_long(self, seconds: float) -> None:
        self.world.pass_time(seconds)
        self.world.start_gateway()

    @rule()
    def a_round(self) -> None:
        self.world.pass_time(1.0)
        self.world.step()

    @rule(after=st.integers(1, 30), seconds=st.sampled_from([1.0, 15.0]))
    def it_dies_somewhere(self, after: int, seconds: float) -> None:
        self.world.pass_time(seconds)
        self.world.step(crash_in=after)

    @rule(name=st.sampled_from(crashpoints()), seconds=st.sampled_from([1.0, 15.0]))
    def it_dies_at_a_named_place(self, name: str, seconds: float) -> None:
        self.world.pass_time(seconds)
        self.world.step(crash_at=name)

    @rule()
    def it_is_started_again(self) -> None:
        self.world.start_gateway()

    # -- clients and people ----------------------------------------------------------------

    @happens(count=st.integers(1, 5), cpus=st.integers(1, 2))
    def clients_publish(self, count: int, cpus: int) -> None:
        for _ in range(count):
            self.world.publish(cpus)

    @precondition(lambda self: self.world.queue.settled)
    @happens(which=WHICH, flagged=st.booleans())
    def a_message_comes_again(self, which: int, flagged: bool) -> None:
        live = {self.world.journal.message(e.id) for e in self.world.journal.live()}
        again = [body for body in self.world.queue.settled if body in live]
        if again:
            self.world.queue.put(self.pick(again, which), redelivered=flagged)

    @happens(which=WHICH)
    def somebody_cancels(self, which: int) -> None:
        live = self.world.journal.live()
        if live:
            self.world.wish_cancel(self.pick(live, which).id)

    # -- the cluster -----------------------------------------------------------------------

    def _up(self) -> bool:
        return self.world.cluster.controller == UP

    @precondition(lambda self: self._up() and self.world.waiting())
    @happens(count=st.integers(1, 4), which=WHICH)
    def jobs_start(self, count: int, which: int) -> None:
        for _ in range(count):
            waiting = self.world.waiting()
            if waiting:
                self.world.start(self.pick(waiting, which), NODES[which % len(NODES)])

    @precondition(lambda self: self.world.running())
    @happens(
        which=WHICH,
        how=st.sampled_from(sorted(ENDINGS)),
        delay=st.sampled_from([0.0, 0.0, 5.0, 60.0]),
        completing=st.booleans(),
        requeue=st.booleans(),
    )
    def a_run_ends(
        self, which: int, how: str, delay: float, completing: bool, requeue: bool
    ) -> None:
        at = self.pick(self.world.running(), which)
        word, record, more = ENDINGS[how]
        may = word in ("NODE_FAIL", "BOOT_FAIL") and self.world.site.requeue and record is None
        requeue = requeue and may
        delay = 0.0 if requeue else delay
        note(f"{at} ends: {how}, requeue {requeue}")
        self.world.end(
            at, word, record, delay=delay, requeue=requeue, completing=completing, **more
        )

    @precondition(lambda self: self.world.running())
    @happens(which=WHICH)
    def a_run_ends_well(self, which: int) -> None:
        self.world.end(self.pick(self.world.running(), which), "COMPLETED", Reason.COMPLETED)

    @precondition(lambda self: self.world.completing())
    @happens(which=WHICH, record=st.sampled_from([Reason.CANCELLED, Reason.COMPLETED, None]),
          delay=st.sampled_from([0.0, 30.0]))  # fmt: skip
    def the_node_is_done_with_it(self, which: int, record: Reason | None, delay: float) -> None:
        at = self.pick(self.world.completing(), which)
        if record is Reason.COMPLETED and self.world.task(at).requeues:
            record = None
        self.world.finish(at, record, delay=delay)

    @precondition(lambda self: self._up() and self.world.running())
    @happens(which=WHICH)
    def a_run_is_preempted(self, which: int) -> None:
        at = self.pick(self.world.running(), which)
        self.world.cluster.tell(*at, self.world.now, requeue=self.world.site.requeue)

    @precondition(lambda self: self._up() and self.world.waiting())
    @happens(which=WHICH, word=st.sampled_from(["DEADLINE", "BOOT_FAIL", "CANCELLED"]))
    def a_job_ends_without_a_node(self, which: int, word: str) -> None:
        self.world.never_ran(self.pick(self.world.waiting(), which), word)

    @precondition(lambda self: self._up() and self.world.cluster.jobs)
    @happens(which=WHICH)
    def an_admin_cancels_a_job(self, which: int) -> None:
        base = self.pick(sorted(self.world.cluster.jobs), which)
        self.world.cluster.cancel(base, None, self.world.now)
        self.world.check()

    @precondition(lambda self: self._up() and (self.world.running() or self.world.ended()))
    @happens(which=WHICH, hold=st.sampled_from(["", "REQUEUE_HOLD", "SPECIAL_EXIT"]))
    def an_admin_requeues_a_job(self, which: int, hold: str) -> None:
        self.world.requeue(self.pick(self.world.running() + self.world.ended(), which), hold)

    @precondition(lambda self: self.world.held())
    @happens(which=WHICH)
    def an_admin_releases_a_job(self, which: int) -> None:
        self.world.cluster.release(*self.pick(self.world.held(), which))

    @happens()
    def the_controller_refreshes_accounts(self) -> None:
        self.world.cluster.refresh_accounts(self.world.now)

    # -- its servers -----------------------------------------------------------------------

    @happens(state=st.sampled_from([UP, UP, DOWN, HANGS]))
    def the_controller_is(self, state: str) -> None:
        self.world.cluster.controller = state

    @happens(state=st.sampled_from([UP, UP, DOWN, HANGS]))
    def the_database_is(self, state: str) -> None:
        self.world.database(state)

    @happens(seconds=st.sampled_from([0.0, 0.0, 10.0, 60.0]))
    def accounting_lags(self, seconds: float) -> None:
        self.world.cluster.lag = seconds

    @happens(kind=st.sampled_from(SBATCH_FAULTS))
    def an_sbatch_will_go_wrong(self, kind: str) -> None:
        self.world.cluster.faults.append(Fault("sbatch", kind, 0.5))

    @happens(seconds=st.sampled_from([5.0, 25.0]))
    def a_submission_will_arrive_late(self, seconds: float) -> None:
        self.world.cluster.faults.append(Fault("sbatch", "socket_late", seconds))

    @happens(
        text=st.sampled_from(
            [
                ("Invalid partition name specified", True),
                ("Job violates accounting/QOS policy (job submit limit, user's size and/or time "
                 "limits)", False),
                ("Slurm temporarily unable to accept job, sleeping and retrying", False),
            ]
        )
    )  # fmt: skip
    def a_submission_will_be_refused(self, text: tuple[str, bool]) -> None:
        self.world.refuse(text[0], for_good=text[1])

    @happens(
        program=st.sampled_from(["squeue", "sacct", "scancel"]),
        kind=st.sampled_from(["hang", "killed", "warn"]),
        part=st.floats(0, 1),
    )
    def a_question_will_go_wrong(self, program: str, kind: str, part: float) -> None:
        self.world.cluster.faults.append(Fault(program, kind, part))

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.world.play_out()
        finally:
            self.world.close()


TestGatewayModel = GatewayModel.TestCase
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
    logging.getLogger("hpcrunner").setLevel(logging.CRITICAL)


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
