"""A source whose server is waited at by a thread, so that the gateway's own loop never waits.

Long polls hear of a message at once and cost few requests. The thread asks for no more than the
gateway has room for, keeps what came for the next take, and asks nothing at all while there is
no room.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hpcrunner.notices import Notices
from hpcrunner.queues.backoff import Backoff
from hpcrunner.queues.contract import EQUAL, Delivery, QueueUnavailable, Served, Shares
from hpcrunner.queues.rota import Rota

log = logging.getLogger(__name__)

HOLD = 60  # seconds for which the server keeps a message from others once it was received
FRESH = HOLD / 2  # younger ones are handed over: the other half is for writing them down
_ATTENTION = 30.0  # seconds after a take, in which messages are fetched for the next one
_LONGEST_TAKE = 5.0
_MOST_BYTES = 64 * 1024 * 1024  # held at a time, lest a few huge messages fill the memory
_REFUSED_PAUSE = 60.0
_NAMED = 10  # queues in one line of the log
_LASTING_PAUSE = 600.0  # a refused login: only a person can mend it
_FAREWELL = 0.5  # a long poll takes longer, and gives back later what it brings


class QueueGone(QueueUnavailable):
    """There is no such queue (any more)."""


class QueueRefused(QueueUnavailable):
    """This queue is not ours to read; others may be."""


class LoginRefused(QueueUnavailable):
    """The server refuses us altogether."""


class Server(Protocol):
    """A server and its queues. Calls block within time-outs and raise QueueUnavailable.

    ``receive`` is called by one thread, ``settle`` and ``give_back`` by another. What was
    received is kept from others for HOLD seconds.
    """

    @property
    def name(self) -> str:
        """For logs, without credentials."""
        ...

    @property
    def most_at_once(self) -> int:
        """How many messages one receive can bring."""
        ...

    @property
    def refresh(self) -> float:
        """Seconds between two looks at which queues there are."""
        ...

    def queues(self) -> Mapping[str, str]:
        """Our queues: what ``receive`` calls them, and their names for people."""
        ...

    def receive(self, queue: str, most: int, wait: float) -> list[Delivery]:
        """Messages of one queue, after ``wait`` seconds at the latest where none is there."""
        ...

    def settle(self, deliveries: Sequence[Delivery]) -> int:
        """Remove messages; returns how many of them the server did not remove."""
        ...

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Let others have these messages at once."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class ListeningSource:
    """The queues of a server, as a Source (which see). ``clock`` is monotonic seconds.

    ``connect`` makes the server anew after each close, without talking to it yet; ``kind`` is
    Served's.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        connect: Callable[[], Server],
        clock: Callable[[], float] = time.monotonic,
        *,
        shares: Shares = EQUAL,
    ) -> None:
        self._shares = shares
        self._name = name
        self._kind = kind
        self._connect = connect
        self._clock = clock
        self._listener: _Listener | None = None
        self._held: dict[int, Delivery] = {}
        self._listed = self._unlisted = 0  # by listeners before this one

    @property
    def name(self) -> str:
        """See Source.name."""
        return self._name

    def take(self, most: int) -> list[Delivery]:
        """See Source.take. Waits for some seconds at most, while messages are streaming in."""
        if self._listener is None:
            if most <= 0:
                return []
            self._listener = _Listener(self._connect(), self._clock, self._shares)
            self._listener.start()
        taken = self._listener.take(max(0, most))
        self._held.update({id(delivery): delivery for delivery in taken})
        return taken

    def accept(self, deliveries: Sequence[Delivery]) -> None:
        """See Source.accept."""
        ours = self._release(deliveries)
        if not ours or self._listener is None:
            return
        try:
            left = self._listener.server.settle(ours)
        except QueueUnavailable as error:
            log.warning("%s; what was journalled comes again, and is known then", error.line())
            return
        if left:
            log.info("%s: %d message(s) not removed; they may come again", self.name, left)

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """See Source.give_back."""
        ours = self._release(deliveries)
        if ours and self._listener is not None:
            _give_back(self._listener.server, ours)

    def served(self) -> Served:
        """See Source.served."""
        queues, listed, unlisted = self._listener.served() if self._listener else ((), 0, 0)
        return Served(self._kind, queues, self._listed + listed, self._unlisted + unlisted)

    def close(self) -> None:
        """See Source.close. What the thread still receives goes back as soon as it comes."""
        listener, self._listener = self._listener, None
        if listener is not None:
            waiting = listener.stop()
            _, listed, unlisted = listener.served()
            self._listed += listed
            self._unlisted += unlisted
            unsettled, self._held = list(self._held.values()), {}
            if waiting or unsettled:
                _give_back(listener.server, [*unsettled, *waiting])
            listener.dismissed.set()
            listener.join(_FAREWELL)

    def _release(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        return [d for d in deliveries if self._held.pop(id(d), None) is not None]


@dataclass(frozen=True, slots=True)
class _Waiting:
    delivery: Delivery
    since: float = field(compare=False)


class _Listener(threading.Thread):
    """The thread, from its start to its one stop, and what it has received so far."""

    def __init__(self, server: Server, clock: Callable[[], float], shares: Shares) -> None:
        # A daemon: the end of the process does not wait for the end of a long poll.
        super().__init__(name=f"listens at {server.name}", daemon=True)
        self.server = server
        self._clock = clock
        self._notices = Notices(log)
        self._backoff = Backoff(clock)
        self._shares = shares
        self._rota = Rota(clock, weight=lambda queue: shares.weight(self._label(queue)))
        self._names: Mapping[str, str] = {}
        self._look_at = float("-inf")
        self.dismissed = threading.Event()  # nobody needs the server any more
        self._changed = threading.Condition()
        # All below belongs to whoever holds the condition.
        self._waiting: list[_Waiting] = []
        self._bytes = 0
        self._wanted = 0
        self._asked_at = float("-inf")
        self._rushing = True  # not looked yet
        self._stopped = False
        self._served: tuple[str, ...] = ()
        self._listed = 0
        self._unlisted = 0

    def take(self, most: int) -> list[Delivery]:
        """Up to ``most`` of what has come, and of what comes in quick succession."""
        with self._changed:
            self._asked_at = self._clock()
            self._wanted = most
            self._forget_stale()
            self._changed.notify_all()
            if most > 0:
                self._changed.wait_for(
                    lambda: len(self._waiting) >= most or not self._rushing or self._full,
                    _LONGEST_TAKE,
                )
            self._forget_stale()
            handed, self._waiting = self._waiting[:most], self._waiting[most:]
            self._bytes -= sum(len(w.delivery.body) for w in handed)
            self._wanted = most - len(handed)
            self._asked_at = self._clock()
            return [w.delivery for w in handed]

    def served(self) -> tuple[tuple[str, ...], int, int]:
        """The queues it knows now; how often it has found that out, and how often not."""
        with self._changed:
            return self._served, self._listed, self._unlisted

    def stop(self) -> list[Delivery]:
        """Receive no more; returns what nobody has taken."""
        with self._changed:
            self._stopped = True
            left, self._waiting = self._waiting, []
            self._changed.notify_all()
            return [w.delivery for w in left]

    def run(self) -> None:
        """The thread: wait for room, then for messages."""
        while (room := self._await_room()) > 0:
            try:
                self._turn(room)
            except QueueUnavailable as error:
                self._failed(error)
            except Exception:
                # A thread that dies would leave a gateway that hears nothing and says nothing.
                log.exception("%s: a fault in hpcrunner while listening", self.server.name)
                self._pause(self._backoff.failed(at_least=_REFUSED_PAUSE))
        self.dismissed.wait()
        self.server.close()

    def _turn(self, room: int) -> None:
        if not self._backoff.due:
            self._pause(1.0)
            return
        if self._clock() >= self._look_at:
            self._look()
        rooms = self._rooms()
        self._rota.close(queue for queue, most in rooms.items() if most <= 0)
        turn = self._rota.next()
        if turn is None:
            self._pause(1.0)
            return
        queue, wait = turn
        most = min(room, self.server.most_at_once, rooms.get(queue, room))
        try:
            came = self.server.receive(queue, most, wait)
        except QueueGone:
            self._gone([queue])
            self._look_at = min(self._look_at, self._clock() + 5.0)
        except QueueRefused as error:
            self._rota.bar(queue, _REFUSED_PAUSE)
            self._notices.warn(queue, f"{error.line()}; skipped")
            self._note()
        else:
            self._notices.over(queue, f"{self.server.name}: {self._label(queue)} can be read")
            self._rota.asked(queue, busy=bool(came), came=len(came))
            self._keep(came)
        self._recovered()

    def _rooms(self) -> dict[str, int]:
        """How many more messages can be used of the queues of which not any number can."""
        rooms = {queue: self._shares.room(self._label(queue)) for queue in self._rota.queues}
        with self._changed:
            here = Counter(w.delivery.queue for w in self._waiting)
        return {q: room - here[self._label(q)] for q, room in rooms.items() if room is not None}

    def _look(self) -> None:
        try:
            self._names = dict(self.server.queues())
        except QueueUnavailable:
            with self._changed:
                self._unlisted += 1
            raise
        self._look_at = self._clock() + self.server.refresh
        new, gone = self._rota.update(self._names)
        if new:
            names = ", ".join(map(self._label, new[:_NAMED])) + (", …" if new[_NAMED:] else "")
            log.info("%s: %d queue(s) more: %s", self.server.name, len(new), names)
        self._gone(gone)
        with self._changed:
            self._listed += 1
        self._recovered()

    def _gone(self, queues: Sequence[str]) -> None:
        for queue in queues:
            self._rota.drop(queue)
            self._notices.over(queue)
            log.info("%s: queue %s is gone", self.server.name, self._label(queue))
        self._note()

    def _label(self, queue: str) -> str:
        return self._names.get(queue, queue.rpartition("/")[2])

    def _keep(self, came: Sequence[Delivery]) -> None:
        now = self._clock()
        with self._changed:
            if not self._stopped:
                self._waiting += [_Waiting(delivery, now) for delivery in came]
                self._bytes += sum(len(delivery.body) for delivery in came)
                self._rushing = self._rota.rushing
                self._changed.notify_all()
                return
        if came:
            _give_back(self.server, came)

    def _note(self) -> None:
        with self._changed:
            self._rushing = self._rota.rushing
            self._served = tuple(sorted({self._label(queue) for queue in self._rota.queues}))
            self._changed.notify_all()

    def _failed(self, error: QueueUnavailable) -> None:
        self._backoff.failed(at_least=_LASTING_PAUSE if isinstance(error, LoginRefused) else 0.0)
        self._notices.warn("server", error.line())
        with self._changed:
            self._rushing = False
            self._changed.notify_all()

    def _recovered(self) -> None:
        self._backoff.succeeded()
        self._notices.over("server", f"{self.server.name}: answers again")

    def _await_room(self) -> int:
        """How many more messages the gateway can use, once it can use some; 0 at the end."""
        with self._changed:
            while not self._stopped:
                self._forget_stale()
                room = self._wanted - len(self._waiting)
                if room > 0 and self._attended and not self._full:
                    return room
                # Nobody asks: what waits here goes stale in the meantime.
                self._changed.wait(None if not self._waiting else FRESH)
            return 0

    @property
    def _attended(self) -> bool:
        return self._clock() - self._asked_at < _ATTENTION

    @property
    def _full(self) -> bool:
        return self._bytes >= _MOST_BYTES

    def _forget_stale(self) -> None:
        """What has waited for too long is left to the server: others may have it soon."""
        limit = self._clock() - FRESH
        self._waiting = [w for w in self._waiting if w.since > limit]
        self._bytes = sum(len(w.delivery.body) for w in self._waiting)

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._rushing = False
            self._changed.notify_all()
            if not self._stopped:
                self._changed.wait(seconds)


def _give_back(server: Server, deliveries: Sequence[Delivery]) -> None:
    try:
        server.give_back(deliveries)
    except QueueUnavailable as error:
        log.info("%s; it hands %d message(s) out again itself", error.line(), len(deliveries))
