"""Whose turn it is: nobody starves, nothing is asked too often, what vanished is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from hpcrunner.queues.rota import ROUND, SHORTEST_WAIT, Rota

if TYPE_CHECKING:
    from conftest import Clock


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def idle(rota: Rota, clock: Clock | Time, rounds: int) -> list[tuple[str, float]]:
    """So many turns in which nothing comes; the clock goes on by what was waited."""
    turns = []
    for _ in range(rounds):
        turn = rota.next()
        assert turn is not None
        turns.append(turn)
        clock.now += turn[1]
        rota.asked(turn[0], busy=False)
    return turns


def test_new_queues_are_looked_at_at_once_and_then_waited_at(clock: Clock) -> None:
    rota = Rota(clock)
    rota.update(["a", "b"])
    assert idle(rota, clock, 4) == [("a", 0), ("b", 0), ("a", ROUND / 2), ("b", ROUND / 2)]


def test_one_queue_is_waited_at_for_a_whole_round(clock: Clock) -> None:
    rota = Rota(clock)
    rota.update(["a"])
    assert idle(rota, clock, 3) == [("a", 0), ("a", ROUND), ("a", ROUND)]


def test_an_hour_of_nothing_costs_no_more_requests_than_documented() -> None:
    for count, most in ((1, 361), (5, 1806), (10, 3610), (50, 3651)):
        clock = Time()
        rota = Rota(clock)
        rota.update(f"q{number}" for number in range(count))
        requests = 0
        while clock.now < 3600:
            idle(rota, clock, 1)
            requests += 1
        assert requests <= most


def test_a_long_queue_is_drained_without_waits_and_does_not_starve_the_others(
    clock: Clock,
) -> None:
    rota = Rota(clock)
    rota.update(["long", "a", "b"])
    asked = []
    for _ in range(1000):
        turn = rota.next()
        assert turn is not None
        assert turn[1] == 0, "nothing waits while there is something to fetch"
        asked.append(turn[0])
        clock.forward(0.05)
        rota.asked(turn[0], busy=turn[0] == "long")
    assert 3 <= asked.count("a") <= 10
    assert 3 <= asked.count("b") <= 10


def test_a_barred_queue_is_left_alone_until_its_time(clock: Clock) -> None:
    rota = Rota(clock)
    rota.update(["a"])
    rota.bar("a", 60)
    assert rota.next() is None
    assert not rota.rushing
    clock.forward(60)
    assert rota.next() == ("a", 0.0)


@given(
    st.lists(
        st.one_of(
            st.lists(st.sampled_from("abcdef")),
            st.booleans(),
            st.tuples(st.sampled_from("abcdef"), st.floats(0, 100)),
            st.floats(0, 1000),
        )
    )
)
def test_whatever_happens_every_turn_is_a_queue_that_is_there_and_every_wait_bounded(
    events: list[object],
) -> None:
    clock = Time()
    rota = Rota(clock)
    there: set[str] = set()
    for event in events:
        if isinstance(event, list):
            before = there
            there = set(event)
            new, gone = rota.update(event)
            assert (set(new), set(gone)) == (there - before, before - there)
        elif isinstance(event, tuple):
            rota.bar(*event)
        elif isinstance(event, bool):
            turn = rota.next()
            if turn is not None:
                assert turn[0] in there
                assert turn[1] == 0 or SHORTEST_WAIT <= turn[1] <= ROUND
                rota.asked(turn[0], busy=event)
        else:
            assert isinstance(event, float)
            clock.now += event
        assert set(rota.queues) == there


def test_weights_count_in_messages_and_a_long_queue_still_does_not_starve_the_idle(
    clock: Clock,
) -> None:
    rota = Rota(clock, weight=lambda queue: 4 if queue == "urgent" else 1)
    rota.update(["urgent", "plain", "idle"])
    came = {"urgent": 0, "plain": 0, "idle": 0}
    looks = 0
    for _ in range(1000):
        turn = rota.next()
        assert turn is not None
        clock.forward(0.05)
        brought = {"urgent": 10, "plain": 7, "idle": 0}[turn[0]]
        came[turn[0]] += brought
        looks += turn[0] == "idle"
        rota.asked(turn[0], busy=brought > 0, came=brought)
    assert 3.9 < came["urgent"] / came["plain"] < 4.1
    assert 3 <= looks <= 10


def test_a_closed_queue_is_not_asked_and_nobody_hurries_for_it(clock: Clock) -> None:
    rota = Rota(clock)
    rota.update(["full", "idle"])
    rota.asked("full", busy=True)
    rota.asked("idle", busy=False)
    rota.close(["full"])
    assert not rota.rushing
    assert {queue for queue, _ in idle(rota, clock, 3)} == {"idle"}
    rota.close(["full", "idle"])
    assert rota.next() is None
    rota.close([])
    assert rota.rushing
