"""Publishing as the released StudioML client does: for submitting by hand, tests, benchmarks."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import pika
import pika.exceptions

from hpcrunner.queues.amqp import (
    AMQP_FAILURES,
    EXCHANGE,
    EXCHANGE_TYPE,
    ROUTING_PREFIX,
    broker,
    trouble,
)
from hpcrunner.queues.contract import QueueUnavailable


class RabbitPublisher:
    """One connection to publish over; a context manager. All methods raise QueueUnavailable.

    The constructor raises OptionInvalid for a bad URL. Queues and messages are made durable
    only with ``persistent``, as by the client's ``cloud.queue.persistent``.
    """

    def __init__(self, url: str, *, persistent: bool = False) -> None:
        self._broker = broker(url, "hpcrunner publisher")
        self._persistent = persistent
        self._declared: set[str] = set()
        try:
            self._connection: Any = pika.BlockingConnection(self._broker.parameters)
            self._channel: Any = self._confirming_channel()
        except AMQP_FAILURES as error:
            raise trouble(error).at(self._broker.name) from error

    def declare(self, queue: str) -> None:
        """Make exchange, queue and binding, where they are not there yet."""
        try:
            self._channel.exchange_declare(
                EXCHANGE, exchange_type=EXCHANGE_TYPE, durable=True, auto_delete=True
            )
            if not self._exists(queue):
                self._channel.queue_declare(queue, durable=self._persistent)
            self._channel.queue_bind(queue, EXCHANGE, routing_key=ROUTING_PREFIX + queue)
        except AMQP_FAILURES as error:
            raise trouble(error).at(f"{self._broker.name}: queue {queue}") from error
        self._declared.add(queue)

    def publish(self, queue: str, body: bytes) -> None:
        """Publish one request and wait until the broker has confirmed it."""
        if queue not in self._declared:
            self.declare(queue)
        properties = pika.BasicProperties(
            app_id="studioml",
            content_type="application/json",
            delivery_mode=2 if self._persistent else None,
        )
        try:
            self._channel.basic_publish(
                EXCHANGE, ROUTING_PREFIX + queue, body, properties, mandatory=True
            )
        except pika.exceptions.UnroutableError:
            self._declared.discard(queue)
            raise QueueUnavailable(
                "the queue is gone", where=f"{self._broker.name}: queue {queue}"
            ) from None
        except AMQP_FAILURES as error:
            raise trouble(error).at(f"{self._broker.name}: queue {queue}") from error

    def delete(self, queue: str) -> None:
        """Delete a queue with all it holds; no error where it is not there."""
        try:
            self._channel.queue_delete(queue)
        except AMQP_FAILURES as error:
            raise trouble(error).at(f"{self._broker.name}: queue {queue}") from error
        self._declared.discard(queue)

    def close(self) -> None:
        """End the connection; what was published is confirmed already."""
        try:
            self._connection.close()
        except AMQP_FAILURES:
            return

    def __enter__(self) -> RabbitPublisher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _confirming_channel(self) -> Any:
        channel = self._connection.channel()
        channel.confirm_delivery()
        return channel

    def _exists(self, queue: str) -> bool:
        # A queue made with other flags than ours must serve as it is; and a passive declare of
        # one that is not there costs its channel.
        channel = self._connection.channel()
        try:
            channel.queue_declare(queue, passive=True)
        except pika.exceptions.ChannelClosedByBroker as error:
            if error.reply_code != 404:
                raise
            return False
        channel.close()
        return True
