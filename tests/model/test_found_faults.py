"""What the model found, each as the shortest way there."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from slurm.cluster import DOWN, UP, Fault
from truth import SUCCESS
from world import World

from hpcrunner.gateway.experiment import State
from hpcrunner.request.reasons import Reason


@pytest.fixture
def make_world() -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(**given: object) -> World:
        made.append(World(**given))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for world in made:
        world.close()


def test_an_attempt_that_another_job_claimed_is_followed_there(
    make_world: Callable[..., World],
) -> None:
    """A submission that arrives after the settle time leaves two jobs on one batch."""
    world = make_world(doubles=True)
    world.publish()
    world.cluster.faults.append(Fault("sbatch", "socket_late", 200.0))
    world.rounds(250.0)
    first, second = sorted(world.nodes.waiting())
    (e,) = world.experiments()
    known, late = (first, second) if e.job_id == str(first[0]) else (second, first)
    world.nodes.start(late)
    world.rounds(30.0)
    world.nodes.start(known)
    world.nodes.end(known, "COMPLETED")
    world.rounds(300.0)
    assert world.experiments()[0].attempt == 1
    world.nodes.end(late, "COMPLETED", Reason.COMPLETED)
    world.rounds(300.0)
    (e,) = world.experiments()
    assert (e.state, e.reason) == SUCCESS


def test_a_job_whose_id_another_got_after_a_cold_start_is_not_taken_for_it(
    make_world: Callable[..., World],
) -> None:
    world = make_world(retries={"infrastructure": 0})
    world.publish()
    world.step()
    world.nodes.start((1, None))
    world.step()
    world.nodes.cold_start(flush=False)
    world.cluster.next_id = 1
    world.publish()
    world.rounds(30.0)
    world.nodes.start((1, None))
    world.rounds(30.0)
    world.nodes.end((1, None), "COMPLETED", Reason.COMPLETED)
    world.rounds(600.0)
    states = [e.state for e in world.experiments()]
    assert states == [State.LOST, State.SUCCEEDED]


def test_a_cancel_never_ends_a_job_that_only_has_the_same_id(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    world.publish()
    world.step()
    world.nodes.start((1, None))
    world.step()
    world.nodes.cold_start(flush=False)
    world.cluster.next_id = 1
    world.publish()
    world.rounds(30.0)
    world.nodes.start((1, None))
    lost, _ = world.experiments()
    world.wish_cancel(lost.id)
    world.rounds(60.0)
    assert not world.nodes.task((1, None)).told


def test_one_doubtful_refusal_after_a_long_outage_sets_nothing_aside(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    world.publish()
    world.cluster.controller = DOWN
    world.step()
    world.pass_time(2 * world.site.stuck_after)
    world.cluster.controller = UP
    text = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
    world.cluster.faults.append(Fault("sbatch", "refuse", text))
    world.refusals += 1  # the world itself must not object
    world.rounds(900.0)
    (e,) = world.experiments()
    assert e.state is State.PENDING
