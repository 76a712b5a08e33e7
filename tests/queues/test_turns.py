"""Turns by weight: right in one large take, right one message at a time, right after a pause."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

from hpcrunner.queues.turns import Portions, Turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Clock


def allotted(waiting: list[int], room: int) -> list[int]:
    return list(Turns().allot({str(i): n for i, n in enumerate(waiting)}, room).values())


def test_shares_are_even_and_never_more_than_there_is() -> None:
    assert allotted([], 5) == []
    assert allotted([0, 3], 0) == [0, 0]
    assert allotted([10, 1, 0, 10], 7) == [3, 1, 0, 3]
    assert allotted([2, 2], 100) == [2, 2]
    assert allotted([5, 5, 5], 2) == [1, 1, 0]
    rng = random.Random(7)
    for _ in range(500):
        waiting = [rng.randrange(9) for _ in range(rng.randrange(6))]
        room = rng.randrange(30)
        shares = allotted(waiting, room)
        assert all(0 <= share <= length for share, length in zip(shares, waiting, strict=True))
        assert sum(shares) == min(room, sum(waiting))
        unserved = [s for s, length in zip(shares, waiting, strict=True) if s < length]
        assert not unserved or max(shares) - min(unserved) <= 1


def weight(queue: str) -> int:
    return {"heavy": 5, "mid": 2}.get(queue, 1)


def test_weights_hold_in_one_take_and_one_by_one() -> None:
    waiting = dict.fromkeys(("light", "mid", "heavy"), 1000)
    assert Turns(weight).allot(waiting, 80) == {"light": 10, "mid": 20, "heavy": 50}
    turns = Turns(weight)
    served: Counter[str] = Counter()
    for _ in range(80):
        queue = turns.first(waiting)
        turns.had({queue: 1})
        served[queue] += 1
    assert served == {"light": 10, "mid": 20, "heavy": 50}


def test_takes_of_any_size_come_to_the_same_shares() -> None:
    rng = random.Random(3)
    turns = Turns(weight)
    served: Counter[str] = Counter()
    while served.total() < 8000:
        shares = turns.allot(dict.fromkeys(("light", "mid", "heavy"), 1000), rng.randrange(1, 9))
        turns.had(shares)
        served.update(shares)
    assert all(abs(served[q] - 1000 * n) < 20 for q, n in (("light", 1), ("mid", 2), ("heavy", 5)))


def test_a_queue_that_was_idle_has_saved_nothing_up_and_owes_nothing() -> None:
    turns = Turns()
    turns.had({"a": 1, "b": 1})
    turns.had({"a": 500})
    assert turns.allot({"a": 99, "b": 99}, 10) in ({"a": 5, "b": 5}, {"a": 4, "b": 6})
    turns.had({"c": 1})
    assert turns.allot({"a": 99, "c": 99}, 10) == {"a": 5, "c": 5}


class Site:
    """Sources with queues of so many messages, taken from as the gateway does."""

    def __init__(self, clock: Callable[[], float], **sources: dict[str, int]) -> None:
        self.sources = sources
        self.portions = Portions(clock, weight)
        self.turns = {name: Turns(weight) for name in sources}
        self.asked: list[tuple[str, int]] = []

    def take(self, room: int) -> Counter[str]:
        taken: Counter[str] = Counter()
        for name, portion in self.portions.of(list(self.sources), room):
            self.asked.append((name, portion))
            assert 0 <= portion <= room - taken.total()
            shares = self.turns[name].allot(self.sources[name], portion)
            self.turns[name].had(shares)
            for queue, count in shares.items():
                self.sources[name][queue] -= count
            self.portions.came(name, [q for q, count in shares.items() for _ in range(count)])
            taken.update(shares)
        return +taken


def test_room_is_shared_among_the_queues_of_all_sources_whatever_their_number(
    clock: Clock,
) -> None:
    nine = {f"q{number}": 10_000 for number in range(9)}
    site = Site(clock, one={"alone": 10_000}, many=nine, idle={})
    site.take(100)
    for room in (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 100, 1000):
        served = site.take(room)
        assert served.total() == room, "an idle source costs the others nothing"
    assert set(served.values()) <= {99, 100, 101}
    by_ones = sum((site.take(1) for _ in range(200)), Counter[str]())
    assert all(18 <= count <= 22 for count in by_ones.values()) and len(by_ones) == 10


def test_weights_hold_between_sources(clock: Clock) -> None:
    site = Site(clock, a={"heavy": 10_000}, b={"light": 10_000})
    site.take(10)
    served = sum((site.take(3) for _ in range(200)), Counter[str]())
    assert abs(served["heavy"] - 500) < 10
    served = sum((site.take(room) for room in range(1, 50)), Counter[str]())
    assert 4.9 < served["heavy"] / served["light"] < 5.1


def test_every_source_is_asked_even_where_there_is_no_room(clock: Clock) -> None:
    site = Site(clock, a={"x": 5}, b={"y": 5})
    assert not site.take(0)
    assert site.asked == [("a", 0), ("b", 0)]


def test_what_one_source_leaves_the_others_get_at_once(clock: Clock) -> None:
    site = Site(clock, a={"x": 3}, b={"y": 500}, c={"z": 40})
    assert site.take(300) == {"x": 3, "y": 257, "z": 40}


def test_a_source_that_was_quiet_for_long_stands_for_one_queue_again(clock: Clock) -> None:
    site = Site(clock, a={"x": 20, "y": 20}, b={"z": 10_000})
    site.take(30)
    site.take(30)
    clock.forward(3600)
    site.sources["a"] = {"w": 1000}
    assert site.take(10)["w"] >= 4
