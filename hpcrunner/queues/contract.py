"""What every queue promises, and the Delivery that crosses that boundary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hpcrunner.errors import HpcrunnerError


class QueueUnavailable(HpcrunnerError):
    """The queue server could not be reached or refused us."""

    exit_code = 69  # EX_UNAVAILABLE


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message taken but not yet settled: its bytes, and the handle to settle it with."""

    queue: str
    body: bytes = field(repr=False)
    redelivered: bool = False
    handle: object = field(default=None, repr=False)


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


class Source(Protocol):
    """A server with any number of queues. Used from one thread."""

    @property
    def name(self) -> str:
        """For logs and status, without credentials."""
        ...

    def take(self, most: int) -> list[Delivery]:
        """Up to ``most`` messages that wait now, fairly over its queues; never waits for more.

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
