"""Reports on Google Pub/Sub: published to topics ``<queue>_response``, which clients make.

A client listens with a subscription of its own to such a topic, made before the first report: what
is published while a topic has no subscription is lost.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from hpcrunner.notices import Notices
from hpcrunner.queues.contract import Answer, QueueUnavailable
from hpcrunner.queues.google import GoogleAccess, publisher
from hpcrunner.queues.listening import QueueGone, QueueRefused
from hpcrunner.queues.pubsub import PUBSUB_TIMEOUT, told

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._~%+-]{2,254}")  # the id of a topic
_LARGEST = 10_000_000 - 1000  # bytes of one request, with what goes around the text


class PubSubResponder:
    """One project; it is connected to when there is something to publish.

    Raises OptionInvalid for a key that is none.
    """

    def __init__(self, access: GoogleAccess, *, timeout: float = PUBSUB_TIMEOUT) -> None:
        self._access = access
        self._timeout = timeout
        self._notices = Notices(log)
        self._client: Any = publisher(access)

    @property
    def name(self) -> str:
        """See Responder.name."""
        return self._access.server

    def publish(self, queue: str, body: str) -> Answer:
        """See Responder.publish. One try, within the time-out."""
        if not _NAME.fullmatch(queue):
            return Answer.NO_QUEUE  # no client can have made it
        data = body.encode()
        if len(data) > _LARGEST:
            return Answer.TOO_LARGE
        try:
            with told(f"{self.name}: topic {queue}", refused=QueueRefused):
                self._send(queue, data)
        except QueueGone:
            return Answer.NO_QUEUE
        except QueueRefused as error:
            self._notices.warn(queue, f"no reports: {error.line()}")
            return Answer.QUEUE_REFUSES
        except QueueUnavailable as error:
            self._notices.warn("server", f"reports: {error.line()}")
            return Answer.SERVER_AWAY
        self._notices.over("server", f"{self.name}: answers again, for reports")
        self._notices.over(queue, f"{self.name}: {queue} takes reports again")
        return Answer.PUBLISHED

    def tend(self) -> None:
        """See Responder.tend: the library keeps its connection."""

    def close(self) -> None:
        """See Responder.close."""
        client, self._client = self._client, None
        if client is not None:
            client.stop()
            client.transport.close()

    def _send(self, queue: str, data: bytes) -> None:
        from google.pubsub_v1 import PublisherClient

        if self._client is None:
            self._client = publisher(self._access)
        # The plain call: the library's own publish() collects messages on threads.
        PublisherClient.publish(
            self._client,
            request={
                "topic": f"projects/{self._access.project}/topics/{queue}",
                "messages": [{"data": data}],
            },
            retry=None,
            timeout=self._timeout,
        )
