"""What every queue promises, and the Delivery that crosses that boundary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from hpcrunner.errors import HpcrunnerError


class QueueUnavailable(HpcrunnerError):
    """The queue server could not be reached or refused us."""

    exit_code = 69  # EX_UNAVAILABLE


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message taken but not yet settled: its bytes, and the handle to settle it with.

    ``server`` is where its queue is, for a source over several servers; else its source's name.
    """

    queue: str
    body: bytes = field(repr=False)
    redelivered: bool = False
    handle: object = field(default=None, repr=False)
    server: str = ""


class Answer(Enum):
    """What became of a report."""

    PUBLISHED = "published"
    NO_QUEUE = "the queue is not there"
    SERVER_AWAY = "the server is away"
    QUEUE_REFUSES = "the queue takes nothing now"
    TOO_LARGE = "the server never takes so much"


@dataclass(frozen=True, slots=True)
class Served:
    """What a source serves at this moment, for metrics.

    ``kind`` is the kind of its server (``rmq``, ``sqs``, ``pubsub``, ``local``), ``queues`` are
    those it knows of. ``listed`` and ``unlisted`` count how often it has found out which queues
    there are, and how often it could not.
    """

    kind: str
    queues: tuple[str, ...] = ()
    listed: int = 0
    unlisted: int = 0


class Shares(Protocol):
    """What each queue, by its bare name, gets of the room there is. Asked from any thread."""

    def weight(self, queue: str) -> int:
        """How many of its messages are taken for one of a queue with weight 1."""
        ...

    def room(self, queue: str) -> int | None:
        """How many more of its messages can be used now; None: any number."""
        ...


class _Equal:
    def weight(self, queue: str) -> int:
        return 1

    def room(self, queue: str) -> int | None:
        return None


EQUAL: Shares = _Equal()


class Source(Protocol):
    """A server with any number of queues. Used from one thread."""

    @property
    def name(self) -> str:
        """For logs and status, without credentials."""
        ...

    def take(self, most: int) -> list[Delivery]:
        """Up to ``most`` messages that wait now, over its queues by their shares; never waits for
        more.

        An unreachable server is no error here: it is reported once in the log, reconnected to
        with backoff, and the answer is an empty list.
        """
        ...

    def accept(self, deliveries: Sequence[Delivery]) -> None:
        """Settle for good: the gateway has them written down and synced.

        A delivery whose connection has died since is left to the broker's redelivery.
        """
        ...

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Hand back untouched, for another gateway or a later time."""
        ...

    def served(self) -> Served:
        """What it serves now; asks nobody."""
        ...

    def close(self) -> None:
        """Let go of connections; unsettled deliveries return to their queues.

        A take after that connects again.
        """
        ...


class Responder(Protocol):
    """The way back to one server's clients: publishes, and makes no queue. Used from one thread."""

    @property
    def name(self) -> str:
        """As the server's Source calls it."""
        ...

    def publish(self, queue: str, body: str) -> Answer:
        """Publish one text and wait for the server's word; bounded in time, raises nothing.

        A server that is away is logged once. PUBLISHED may be said of none that is lost then,
        and a text may arrive twice where the word of its arrival was lost.
        """
        ...

    def tend(self) -> None:
        """Keep the connection alive; to be called now and then where nothing is published."""
        ...

    def close(self) -> None:
        """Let go of the connection; publishing again would make another."""
        ...
