"""Of which kind each queue is: as its source says, else as the clients' names for queues say."""

from __future__ import annotations

from hpcrunner.queues.contract import Served

_BY_NAME = frozenset({"rmq", "sqs", "pubsub", "local"})
_OTHER = "other"
_MOST = 10_000  # queues come and go; those there are now are learned anew


class Kinds:
    """Remembers what sources said of their queues."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def learn(self, served: Served) -> None:
        """These queues are of this kind."""
        if len(self._known) > _MOST:
            self._known.clear()
        self._known.update(dict.fromkeys(served.queues, served.kind))

    def of(self, queue: str) -> str:
        """The kind of a queue: ``rmq_gpu`` is one of RabbitMQ, unless somebody knows better."""
        name = queue.partition("_")[0]
        return self._known.get(queue) or (name if name in _BY_NAME else _OTHER)
