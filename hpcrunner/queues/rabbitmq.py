"""RabbitMQ as the StudioML clients use it: queues bound to one topic exchange.

Queues are the clients': never declared here, only read. Each queue has a channel of its own,
because the broker answers a queue that is gone or forbidden by closing the channel, and with
it everything unsettled on it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pika
import pika.exceptions

from hpcrunner.notices import Notices
from hpcrunner.queues.amqp import AMQP_FAILURES, broker, management_address, trouble
from hpcrunner.queues.backoff import Backoff
from hpcrunner.queues.contract import EQUAL, Delivery, Served, Shares
from hpcrunner.queues.discovery import Discovery
from hpcrunner.queues.management import Management
from hpcrunner.queues.matching import QueueFilter
from hpcrunner.queues.settlement import settlements
from hpcrunner.queues.turns import Turns

log = logging.getLogger(__name__)
# pika reports one failed connection in several lines of its own; here it is one.
logging.getLogger("pika").setLevel(logging.CRITICAL)

_MOST_BYTES = 64 * 1024 * 1024  # of one take, lest a few huge messages fill the memory
_LONGEST_TAKE = 5.0  # seconds, after which what came is handed over
_LOOKS_A_SECOND = 4.0  # at queues not known to hold anything, over all of them
_SHORTEST_LOOK = 0.2
_ABSENT_PAUSE = 5.0
_REFUSED_PAUSE = 60.0
_LASTING_PAUSE = 600.0  # a refused login: only a person can mend it
_SPARE_CHANNELS = 64
_NOT_IMPLEMENTED = 540  # to get from a stream closes the whole connection


@dataclass(eq=False, slots=True)
class _Lane:
    """One channel, and the tags of what it delivered and is not settled yet."""

    channel: Any
    unsettled: set[int] = field(default_factory=set)

    @property
    def alive(self) -> bool:
        return bool(self.channel.is_open)


@dataclass(frozen=True, slots=True)
class _Handle:
    lane: _Lane
    tag: int


@dataclass(eq=False, slots=True)
class _Tap:
    """One queue: its channel, whether it is known to hold messages, and when to look again."""

    queue: str
    lane: _Lane | None = None
    busy: bool = False
    next_look: float = float("-inf")
    barred_until: float = float("-inf")

    def due(self, now: float) -> bool:
        return now >= self.barred_until and (self.busy or now >= self.next_look)


class RabbitSource:
    """The StudioML queues of one broker and virtual host. Raises OptionInvalid.

    With ``queues`` exactly these are read; else the management API is asked every ``refresh``
    seconds which there are (``management_url`` as for ``management_address``) and
    ``queue_filter`` chooses. ``clock`` is monotonic seconds.

    Between calls nothing answers the broker's heartbeats. Where ``take`` is not called for
    some minutes, call ``take(0)``, or the connection is lost and made anew at the next take.
    """

    def __init__(
        self,
        url: str,
        queue_filter: QueueFilter,
        *,
        management_url: str = "",
        queues: Sequence[str] = (),
        refresh: float = 5.0,
        connection_name: str = "hpcrunner",
        shares: Shares = EQUAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._broker = broker(url, connection_name)
        self._clock = clock
        self._shares = shares
        self._turns = Turns(shares.weight)
        self._notices = Notices(log)
        self._backoff = Backoff(clock)
        self._connection: Any = None
        self._taps: dict[str, _Tap] = {name: _Tap(name) for name in queues}
        self._discovery: Discovery | None = None
        if not queues:
            management = Management(management_address(url, management_url), self._broker.vhost)
            self._discovery = Discovery(
                management, queue_filter, self._notices, period=refresh, clock=clock
            )

    @property
    def name(self) -> str:
        """The address without credentials."""
        return self._broker.name

    def take(self, most: int) -> list[Delivery]:
        """See Source.take. Blocks for some seconds at worst, where the broker does not answer."""
        taken: list[Delivery] = []
        if not self._connected():
            return taken
        try:
            self._connection.process_data_events(0)
            if most > 0:
                self._discover()
                self._drain(taken, most)
        except AMQP_FAILURES as error:
            self._lost(error)
        else:
            self._backoff.succeeded()
        # What came over a channel that has died since is on its way to somebody else.
        return [d for d in taken if _handle(d).lane.alive]

    def accept(self, deliveries: Sequence[Delivery]) -> None:
        """See Source.accept."""
        self._settle(deliveries, accept=True)

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """See Source.give_back."""
        self._settle(deliveries, accept=False)

    def served(self) -> Served:
        """See Source.served."""
        listing = self._discovery
        return Served(
            "rmq",
            tuple(self._taps),
            listing.succeeded if listing else 0,
            listing.failed if listing else 0,
        )

    def close(self) -> None:
        """See Source.close."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except AMQP_FAILURES as error:
                log.debug("%s: while closing: %s", self.name, trouble(error).what)

    def _connected(self) -> bool:
        if self._connection is not None and self._connection.is_open:
            return True
        if not self._backoff.due:
            return False
        try:
            self._connection = pika.BlockingConnection(self._broker.parameters)
        except AMQP_FAILURES as error:
            self._lost(error)
            return False
        self._notices.over("connection", f"{self.name}: connected again")
        return True

    def _lost(self, error: BaseException) -> None:
        connection, self._connection = self._connection, None
        for tap in self._taps.values():
            tap.lane = None
        why = trouble(error)
        self._backoff.failed(at_least=_LASTING_PAUSE if why.lasting else 0.0)
        self._notices.warn("connection", why.at(self.name).line())
        if connection is not None and connection.is_open:
            try:
                connection.close()
            except AMQP_FAILURES:
                log.debug("%s: the broken connection did not close", self.name)

    def _discover(self) -> None:
        listing = self._discovery.refresh() if self._discovery else None
        if listing is None:
            return
        for name in self._taps.keys() - set(listing.names):
            self._close_lane(self._taps.pop(name))
        self._turns.keep(listing.names)
        for name in listing.names:
            tap = self._taps.setdefault(name, _Tap(name))
            # What we saw ourselves is newer than the broker's statistics.
            tap.busy = tap.busy or name in listing.busy

    def _drain(self, taken: list[Delivery], most: int) -> None:
        ends = self._clock() + _LONGEST_TAKE
        size = 0
        rooms = {name: self._shares.room(name) for name in self._taps}
        ring = {
            name: tap
            for name, tap in self._taps.items()
            if tap.due(self._clock()) and rooms[name] != 0
        }
        while ring and len(taken) < most and size < _MOST_BYTES and self._clock() < ends:
            tap = ring.pop(self._turns.first(ring))
            # Of equals the one asked last comes last, in this take and in the next.
            self._taps[tap.queue] = self._taps.pop(tap.queue)
            delivery = self._get(tap)
            if delivery is None:
                self._rest(tap)
                continue
            self._turns.had({tap.queue: 1})
            taken.append(delivery)
            size += len(delivery.body)
            left = rooms[tap.queue]
            if left is not None:
                rooms[tap.queue] = left - 1
            if not tap.busy:
                self._rest(tap)
            elif left != 1:
                ring[tap.queue] = tap

    def _get(self, tap: _Tap) -> Delivery | None:
        try:
            lane = self._lane(tap)
            tap.busy = False
            method, _, body = lane.channel.basic_get(tap.queue, auto_ack=False)
        except pika.exceptions.NoFreeChannels:
            tap.busy = True  # not looked at yet: first in turn at the next take
            for other in self._taps.values():
                self._close_lane(other)
            return None
        except pika.exceptions.AMQPChannelError as error:
            self._turned_away(tap, error)
            return None
        except pika.exceptions.ConnectionClosedByBroker as error:
            if error.reply_code == _NOT_IMPLEMENTED:
                self._turned_away(tap, error)
            raise
        self._notices.over(tap.queue, f"{self.name}: queue {tap.queue} is there")
        if method is None:
            return None
        tap.busy = method.message_count > 0
        lane.unsettled.add(method.delivery_tag)
        return Delivery(
            tap.queue, body or b"", bool(method.redelivered), _Handle(lane, method.delivery_tag)
        )

    def _lane(self, tap: _Tap) -> _Lane:
        if tap.lane is None or not tap.lane.alive:
            tap.lane = _Lane(self._connection.channel())
        return tap.lane

    def _rest(self, tap: _Tap) -> None:
        pause = max(_SHORTEST_LOOK, len(self._taps) / _LOOKS_A_SECOND)
        tap.next_look = self._clock() + pause
        if len(self._taps) > _SPARE_CHANNELS:
            self._close_lane(tap)

    def _close_lane(self, tap: _Tap) -> None:
        if tap.lane is not None and tap.lane.alive and not tap.lane.unsettled:
            tap.lane.channel.close()
            tap.lane = None

    def _turned_away(self, tap: _Tap, error: pika.exceptions.AMQPError) -> None:
        tap.lane = None
        code = getattr(error, "reply_code", None)
        if code is None:
            return  # closed before, without a word: the next look opens another channel
        if code != 404:
            tap.barred_until = self._clock() + _REFUSED_PAUSE
            self._notices.warn(
                tap.queue, f"{self.name}: queue {tap.queue} skipped: {trouble(error).what}"
            )
            return
        tap.barred_until = self._clock() + _ABSENT_PAUSE
        if self._discovery is None:
            self._notices.warn(
                tap.queue, f"{self.name}: queue {tap.queue} is not there; waiting for it"
            )

    def _settle(self, deliveries: Sequence[Delivery], *, accept: bool) -> None:
        wanted: dict[_Lane, set[int]] = {}
        for delivery in deliveries:
            handle = _handle(delivery)
            wanted.setdefault(handle.lane, set()).add(handle.tag)
        for lane, tags in wanted.items():
            try:
                for tag, multiple in settlements(lane.unsettled, tags) if lane.alive else ():
                    if accept:
                        lane.channel.basic_ack(tag, multiple)
                    else:
                        lane.channel.basic_nack(tag, multiple, requeue=True)
            except pika.exceptions.AMQPChannelError as error:
                log.info("%s: left for redelivery: %s", self.name, trouble(error).what)
            except AMQP_FAILURES as error:
                self._lost(error)
            lane.unsettled -= tags


def _handle(delivery: Delivery) -> _Handle:
    if not isinstance(delivery.handle, _Handle):
        raise TypeError("a delivery of another source")
    return delivery.handle
