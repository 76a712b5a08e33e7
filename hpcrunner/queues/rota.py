"""Whose turn it is, and how long to wait there: many queues that are asked one after the other.

Every question costs a request, and some servers send a bill. A queue that had messages is asked
again at once; the others once in a ``ROUND``, in which the time to wait is shared among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hpcrunner.queues.turns import Turns

ROUND = 10.0  # seconds in which each idle queue is asked once; also the longest wait at one
SHORTEST_WAIT = 1.0  # with more than 10 queues a round takes longer


@dataclass(eq=False, slots=True)
class _Place:
    busy: bool = True  # nobody has looked yet
    asked_at: float = float("-inf")
    barred_until: float = float("-inf")
    closed: bool = False


class Rota:
    """The order of the queues, the one asked last at its end. ``clock`` is monotonic seconds.

    Of those that have messages each has as many of them taken as its ``weight`` says.
    """

    def __init__(
        self, clock: Callable[[], float], weight: Callable[[str], int] = lambda queue: 1
    ) -> None:
        self._clock = clock
        self._turns = Turns(weight)
        self._places: dict[str, _Place] = {}

    @property
    def queues(self) -> tuple[str, ...]:
        """All queues, in their order."""
        return tuple(self._places)

    @property
    def rushing(self) -> bool:
        """Whether some queue is likely to have more right now."""
        return any(place.busy for place in self._open().values())

    def update(self, queues: Iterable[str]) -> tuple[list[str], list[str]]:
        """Take this for all queues there are; returns the new ones and the vanished ones."""
        there = list(dict.fromkeys(queues))
        gone = [queue for queue in self._places if queue not in set(there)]
        new = [queue for queue in there if queue not in self._places]
        for queue in gone:
            self.drop(queue)
        # Nobody has waited for longer than those that are new.
        self._places = {**{queue: _Place() for queue in new}, **self._places}
        self._turns.keep(there)
        return new, gone

    def close(self, queues: Iterable[str]) -> None:
        """Ask none of these, and all others, until the next call."""
        closed = set(queues)
        for queue, place in self._places.items():
            place.closed = queue in closed

    def drop(self, queue: str) -> None:
        """Forget a queue."""
        self._places.pop(queue, None)

    def bar(self, queue: str, seconds: float) -> None:
        """Leave a queue alone for a while."""
        if queue in self._places:
            self._places[queue].barred_until = self._clock() + seconds

    def next(self) -> tuple[str, float] | None:
        """The queue to ask now and how many seconds to wait for messages; None: no queue."""
        now = self._clock()
        there = self._open()
        if not there:
            return None
        busy = [queue for queue, place in there.items() if place.busy]
        for queue, place in there.items():
            if place.busy:
                return self._turns.first(busy), 0.0
            # A long queue must not starve the idle ones, nor they slow it down.
            if busy and now - place.asked_at >= ROUND:
                return queue, 0.0
        return next(iter(there)), max(SHORTEST_WAIT, ROUND / len(there))

    def asked(self, queue: str, *, busy: bool, came: int = 1) -> None:
        """Note what came of a turn: its place is at the end now."""
        self._turns.had_at_once(queue, came)
        place = self._places.pop(queue, None)
        if place is not None:
            place.busy = busy
            place.asked_at = self._clock()
            self._places[queue] = place

    def _open(self) -> dict[str, _Place]:
        now = self._clock()
        return {q: p for q, p in self._places.items() if p.barred_until <= now and not p.closed}
