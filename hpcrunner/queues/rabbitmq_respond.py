"""Reports on RabbitMQ: published to the clients' own response queues, which are never made here.

As StudioML's runner does: exchange ``StudioML.topic``, routing key ``StudioML.<queue>``, content
type ``text/plain``, not persistent, mandatory and confirmed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pika
import pika.exceptions

from hpcrunner.notices import Notices
from hpcrunner.queues.amqp import AMQP_FAILURES, EXCHANGE, ROUTING_PREFIX, broker, trouble
from hpcrunner.queues.contract import Answer

log = logging.getLogger(__name__)

_NOT_FOUND = 404
_BY_NAME = ""  # the exchange that every queue is bound to by its name (AMQP 0-9-1, 3.1.3.1)
_TEXT = pika.BasicProperties(app_id="studioml", content_type="text/plain", delivery_mode=1)


class RabbitResponder:
    """A connection and a confirming channel, made when there is something to publish.

    Raises OptionInvalid for a bad URL.
    """

    def __init__(self, url: str, *, connection_name: str = "hpcrunner") -> None:
        self._broker = broker(url, f"{connection_name} reports")
        self._notices = Notices(log)
        self._connection: Any = None
        self._channel: Any = None

    @property
    def name(self) -> str:
        """See Responder.name."""
        return self._broker.name

    def publish(self, queue: str, body: str) -> Answer:
        """See Responder.publish. Some seconds at worst, where the broker does not answer."""
        answer = self._guarded(queue, lambda: self._publish(EXCHANGE, ROUTING_PREFIX + queue, body))
        if answer is Answer.NO_QUEUE:
            # Not bound to the exchange, or the exchange went with the last binding.
            answer = self._guarded(queue, lambda: self._publish(_BY_NAME, queue, body))
        if answer is Answer.PUBLISHED:
            self._notices.over(queue, f"{self.name}: {queue} takes reports again")
        return answer

    def tend(self) -> None:
        """See Responder.tend."""
        if self._connection is not None:
            try:
                self._connection.process_data_events(0)
            except AMQP_FAILURES as error:
                self._lost(error)

    def close(self) -> None:
        """See Responder.close."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            try:
                connection.close()
            except AMQP_FAILURES as error:
                log.debug("%s: while closing: %s", self.name, trouble(error).what)

    def _publish(self, exchange: str, routing_key: str, body: str) -> None:
        if self._connection is None or not self._connection.is_open:
            self._connection = pika.BlockingConnection(self._broker.parameters)
            self._notices.over("connection", f"{self.name}: connected again, for reports")
            self._channel = None
        if self._channel is None or not self._channel.is_open:
            self._channel = self._connection.channel()
            self._channel.confirm_delivery()
        self._channel.basic_publish(exchange, routing_key, body.encode(), _TEXT, mandatory=True)

    def _guarded(self, queue: str, publish: Callable[[], None]) -> Answer:
        try:
            publish()
        except pika.exceptions.UnroutableError:
            return Answer.NO_QUEUE
        except pika.exceptions.NackError:  # a bounded queue that is full, for one
            self._notices.warn(queue, f"{self.name}: {queue} takes no more reports now")
            return Answer.QUEUE_REFUSES
        except pika.exceptions.AMQPChannelError as error:
            if getattr(error, "reply_code", None) == _NOT_FOUND:
                return Answer.NO_QUEUE
            self._notices.warn(queue, f"{self.name}: no reports to {queue}: {trouble(error).what}")
            return Answer.QUEUE_REFUSES
        except AMQP_FAILURES as error:
            self._lost(error)
            return Answer.SERVER_AWAY
        return Answer.PUBLISHED

    def _lost(self, error: BaseException) -> None:
        self._notices.warn("connection", f"reports: {trouble(error).at(self.name).line()}")
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None and connection.is_open:
            try:
                connection.close()
            except AMQP_FAILURES:
                log.debug("%s: the broken connection did not close", self.name)
