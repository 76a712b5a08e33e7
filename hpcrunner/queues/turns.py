"""Whose turn it is where several have messages: by weights, and with a memory.

Start-time fair queueing: each turn costs a queue 1/weight of a turn's time, and who has used up
least goes first. A queue that was idle starts from now: it saves nothing up, and nobody owes it
anything. So the shares are right whether the room is a thousand messages or one at a time.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

_ACTIVE = 60.0  # seconds for which a queue that had a message is taken to have more


class Turns:
    """Turns of queues, by name. ``weight`` is how many a queue has for one of another's."""

    def __init__(self, weight: Callable[[str], int] = lambda queue: 1) -> None:
        self._weight = weight
        self._next: dict[str, float] = {}  # when the next turn of a queue begins
        self._now = 0.0  # when the latest turn began

    def first(self, queues: Iterable[str]) -> str:
        """The one of these, at least one, whose turn it is; the first of equals."""
        return min(queues, key=self._begins)

    def allot(self, waiting: Mapping[str, int], room: int) -> dict[str, int]:
        """How many turns each gets of ``room``, none more than it has messages ``waiting``."""
        shares = dict.fromkeys(waiting, 0)
        order = [
            (self._begins(queue), place, queue)
            for place, (queue, length) in enumerate(waiting.items())
            if length > 0
        ]
        heapq.heapify(order)
        while order and room > 0:
            begins, place, queue = heapq.heappop(order)
            shares[queue] += 1
            room -= 1
            if shares[queue] < waiting[queue]:
                heapq.heappush(order, (begins + 1 / self._weight(queue), place, queue))
        return shares

    def had(self, turns: Mapping[str, int]) -> None:
        """Note how many turns each has had, one of each after the other."""
        now = self._now
        for queue, count in turns.items():
            if count <= 0:
                continue
            cost = 1 / self._weight(queue)
            self._next[queue] = self._begins(queue) + count * cost
            now = max(now, self._next[queue] - cost)
        self._now = now

    def had_at_once(self, queue: str, count: int) -> None:
        """Note turns that came in one piece: whoever comes later has not missed its own."""
        if count > 0:
            self._now = self._begins(queue)
            self._next[queue] = self._now + count / self._weight(queue)

    def keep(self, queues: Iterable[str]) -> None:
        """Forget all others."""
        there = set(queues)
        self._next = {queue: at for queue, at in self._next.items() if queue in there}

    def _begins(self, queue: str) -> float:
        return max(self._now, self._next.get(queue, 0.0))


class Portions:
    """Room divided among sources so that it is fair among all their queues.

    Which queues a source has messages of is known from what it brought lately; one that brought
    nothing stands for one queue.
    """

    def __init__(
        self, clock: Callable[[], float], weight: Callable[[str], int] = lambda queue: 1
    ) -> None:
        """``clock`` is steady seconds."""
        self._clock = clock
        self._turns = Turns(lambda key: weight(self._queue[key]) if key in self._queue else 1)
        self._queue: dict[str, str] = {}
        self._seen: dict[str, dict[str, float]] = {}
        self._came = 0
        self._turn: Counter[str] = Counter()

    def of(self, sources: Sequence[str], room: int) -> Iterator[tuple[str, int]]:
        """Each source with its portion, 0 too; then again those that used theirs up, with what
        others left. ``came`` is to be told before the next one.
        """
        self._forget(sources)
        portions = self._divided(sources, room)
        asked = list(sources)
        while asked:
            for source in asked:
                self._came = 0
                yield source, portions[source]
                room -= self._came
                portions[source] -= self._came
            self._turns.had(self._turn)
            self._turn = Counter()
            # Who brought less has no more.
            sources = [source for source in sources if portions[source] <= 0]
            portions = self._divided(sources, room)
            asked = [source for source in sources if portions[source] > 0]

    def came(self, source: str, queues: Iterable[str]) -> None:
        """What the source brought for its portion: the queue of each message."""
        for queue in queues:
            key = f"{source}\n{queue}"
            self._queue[key] = queue
            self._seen[source][key] = self._clock()
            self._turn[key] += 1
            self._came += 1

    def _divided(self, sources: Sequence[str], room: int) -> dict[str, int]:
        keys = {key: source for source in sources for key in self._seen[source] or (source,)}
        portions = dict.fromkeys(sources, 0)
        for key, share in self._turns.allot(dict.fromkeys(keys, max(0, room)), room).items():
            portions[keys[key]] += share
        return portions

    def _forget(self, sources: Sequence[str]) -> None:
        limit = self._clock() - _ACTIVE
        self._seen = {
            source: {k: at for k, at in self._seen.get(source, {}).items() if at >= limit}
            for source in sources
        }
        there = {key for keys in self._seen.values() for key in keys}
        self._queue = {key: queue for key, queue in self._queue.items() if key in there}
        self._turns.keep(there)
