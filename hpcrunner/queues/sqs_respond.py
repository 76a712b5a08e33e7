"""Reports on SQS: sent to the clients' own response queues, which are never made here.

SQS's standard queues may hand out messages in another order than they were sent in; a report's
``time`` tells which came first.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from hpcrunner.notices import Notices
from hpcrunner.queues.aws import (
    GONE,
    SQS_TIMEOUT,
    THROTTLED,
    AwsAccess,
    error_code,
    http_status,
    queue_url,
    send_message,
    sqs_client,
)
from hpcrunner.queues.contract import Answer, QueueUnavailable

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")  # the name of a standard queue
_ALWAYS_TAKEN = 256 * 1024  # bytes; above that it depends on the queue


class SqsResponder:
    """One account in one region; its client is made when there is something to publish."""

    def __init__(self, access: AwsAccess, *, timeout: float = SQS_TIMEOUT) -> None:
        self._access = access
        self._timeout = timeout
        self._notices = Notices(log)
        self._client: Any = None
        self._urls: dict[str, str] = {}

    @property
    def name(self) -> str:
        """See Responder.name."""
        return self._access.server

    def publish(self, queue: str, body: str) -> Answer:
        """See Responder.publish. Three tries within the time-out each, at worst."""
        if not _NAME.fullmatch(queue):
            return Answer.NO_QUEUE  # no client can have made it
        try:
            url = self._url(queue)
            if url is None:
                return Answer.NO_QUEUE
            send_message(self._client, url, body)
        except QueueUnavailable as error:
            self._urls.pop(queue, None)
            return self._refused(queue, body, error)
        self._notices.over("server", f"{self.name}: answers again, for reports")
        self._notices.over(queue, f"{self.name}: {queue} takes reports again")
        return Answer.PUBLISHED

    def tend(self) -> None:
        """See Responder.tend: there is no connection to keep."""

    def close(self) -> None:
        """See Responder.close."""
        client, self._client = self._client, None
        self._urls.clear()
        if client is not None:
            client.close()

    def _url(self, queue: str) -> str | None:
        if self._client is None:
            self._client = sqs_client(self._access, timeout=self._timeout)
        if queue not in self._urls:
            found = queue_url(self._client, queue)
            if found is None:
                return None
            self._urls[queue] = found
        return self._urls[queue]

    def _refused(self, queue: str, body: str, error: QueueUnavailable) -> Answer:
        code, status = error_code(error.__cause__), http_status(error.__cause__)
        if code in GONE:
            return Answer.NO_QUEUE
        if code.startswith("InvalidParameter") and len(body) > _ALWAYS_TAKEN:
            return Answer.TOO_LARGE
        if 400 <= status < 500 and code not in THROTTLED:
            self._notices.warn(queue, f"{self.name}: no reports to {queue}: {error.what}")
            return Answer.QUEUE_REFUSES
        self._notices.warn("server", f"reports: {error.line()}")
        return Answer.SERVER_AWAY
