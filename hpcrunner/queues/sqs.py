"""Amazon SQS: the queues of one account in one region.

A message stays in SQS until it is journalled: a receive hides it for a minute, in which it is
written down and deleted; else it appears again. Queues are the clients', so are their
dead-letter policies.

FIFO queues are served like the others: SQS holds back what follows in a group until the first
is deleted, which is once it is journalled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from hpcrunner.queues.aws import (
    GONE,
    LOGIN,
    LONGEST_WAIT,
    SQS_TIMEOUT,
    THROTTLED,
    AwsAccess,
    error_code,
    http_status,
    queue_url,
    sqs_client,
    sqs_errors,
)
from hpcrunner.queues.contract import EQUAL, Delivery, QueueUnavailable, Shares
from hpcrunner.queues.listening import HOLD, ListeningSource, LoginRefused, QueueGone, QueueRefused
from hpcrunner.queues.matching import RESPONSE_SUFFIX, QueueFilter

_BATCH = 10  # SQS's own limit of a batch
_REFRESH = 60.0
_PAGE = 1000
_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}|[A-Za-z0-9_-]{1,75}\.fifo")


@dataclass(frozen=True, slots=True)
class _Handle:
    url: str
    receipt: str = field(repr=False)


class SqsServer:
    """The queues of one AwsAccess, for a ListeningSource; see Server.

    With ``queues`` these are looked up by name, which needs no right to list.
    """

    most_at_once = _BATCH
    refresh = _REFRESH

    def __init__(
        self,
        access: AwsAccess,
        queue_filter: QueueFilter,
        *,
        queues: Sequence[str] = (),
        timeout: float = SQS_TIMEOUT,
    ) -> None:
        self._access = access
        self._filter = queue_filter
        self._named = tuple(name for name in queues if _NAME.fullmatch(name))
        self._by_name = bool(queues)
        self._timeout = timeout
        self._client: Any = None
        self._waiting_client: Any = None

    @property
    def name(self) -> str:
        """See Server.name."""
        return self._access.server

    def queues(self) -> Mapping[str, str]:
        """Names by URL."""
        if self._client is None:
            self._client = sqs_client(self._access, timeout=self._timeout)
            self._waiting_client = sqs_client(
                self._access, timeout=self._timeout, wait=LONGEST_WAIT
            )
        with _listing(self.name):
            urls = list(self._by_names() if self._by_name else self._listed())
        return {url: name_of(url) for url in urls if self._serves(name_of(url))}

    def receive(self, queue: str, most: int, wait: float) -> list[Delivery]:
        """See Server.receive."""
        with _reading(self.name, queue):
            answer = self._waiting_client.receive_message(
                QueueUrl=queue,
                MaxNumberOfMessages=min(most, _BATCH),
                WaitTimeSeconds=min(LONGEST_WAIT, round(wait)),
                VisibilityTimeout=HOLD,
                AttributeNames=["ApproximateReceiveCount"],
            )
        return [_delivery(queue, message) for message in answer.get("Messages", ())]

    def settle(self, deliveries: Sequence[Delivery]) -> int:
        """See Server.settle."""
        left = 0
        for url, handles in _batches(deliveries):
            entries = [
                {"Id": str(number), "ReceiptHandle": handle.receipt}
                for number, handle in enumerate(handles)
            ]
            try:
                with _reading(self.name, url):
                    answer = self._client.delete_message_batch(QueueUrl=url, Entries=entries)
            except QueueGone:
                continue  # and its messages with it
            left += len(answer.get("Failed", ()))
        return left

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """See Server.give_back."""
        for url, handles in _batches(deliveries):
            entries = [
                {"Id": str(number), "ReceiptHandle": handle.receipt, "VisibilityTimeout": 0}
                for number, handle in enumerate(handles)
            ]
            with suppress(QueueGone), _reading(self.name, url):
                self._client.change_message_visibility_batch(QueueUrl=url, Entries=entries)

    def close(self) -> None:
        """See Server.close."""
        for client in (self._client, self._waiting_client):
            if client is not None:
                client.close()

    def _listed(self) -> Iterator[str]:
        # Without a page size SQS answers with the first thousand and never tells of more.
        pages = self._client.get_paginator("list_queues").paginate(
            PaginationConfig={"PageSize": _PAGE}
        )
        for page in pages:
            yield from page.get("QueueUrls", ())

    def _by_names(self) -> Iterator[str]:
        for name in self._named:
            url = queue_url(self._client, name)
            if url is not None:
                yield url

    def _serves(self, name: str) -> bool:
        # A FIFO queue's name must end in .fifo: a report queue's suffix stands before that.
        plain = name.removesuffix(".fifo")
        return self._filter.admits(name) and not plain.endswith(RESPONSE_SUFFIX)


def sqs_source(
    access: AwsAccess,
    queue_filter: QueueFilter,
    *,
    queues: Sequence[str] = (),
    timeout: float = SQS_TIMEOUT,
    shares: Shares = EQUAL,
) -> ListeningSource:
    """The Source of an account's queues; other arguments as for SqsServer."""
    return ListeningSource(
        access.server,
        "sqs",
        lambda: SqsServer(access, queue_filter, queues=queues, timeout=timeout),
        shares=shares,
    )


def name_of(url: str) -> str:
    """The queue's name, which is the last part of its URL."""
    return url.rpartition("/")[2]


def _delivery(url: str, message: Mapping[str, Any]) -> Delivery:
    count = str(message.get("Attributes", {}).get("ApproximateReceiveCount", "1"))
    return Delivery(
        name_of(url),
        # SQS takes no half of a surrogate pair; what claims to be SQS may send one.
        str(message.get("Body", "")).encode("utf-8", "surrogatepass"),
        redelivered=count != "1",
        handle=_Handle(url, str(message["ReceiptHandle"])),
    )


def _batches(deliveries: Sequence[Delivery]) -> Iterator[tuple[str, list[_Handle]]]:
    """Handles of one queue each, no more than go into one request."""
    by_queue: dict[str, list[_Handle]] = {}
    for delivery in deliveries:
        if not isinstance(delivery.handle, _Handle):
            raise TypeError("a delivery of another source")
        by_queue.setdefault(delivery.handle.url, []).append(delivery.handle)
    for url, handles in by_queue.items():
        for start in range(0, len(handles), _BATCH):
            yield url, handles[start : start + _BATCH]


@contextmanager
def _listing(where: str) -> Iterator[None]:
    """A call about no queue in particular."""
    with _told(where, refused=LoginRefused):
        yield


@contextmanager
def _reading(where: str, url: str) -> Iterator[None]:
    """A call about one queue, whose faults are its own."""
    with _told(f"{where}: queue {name_of(url)}", refused=QueueRefused):
        yield


@contextmanager
def _told(where: str, refused: type[QueueUnavailable]) -> Iterator[None]:
    try:
        with sqs_errors(where):
            yield
    except QueueUnavailable as error:
        kind = _kind(error.__cause__, refused)
        if kind is None:
            raise
        raise kind(error.what, where=where, remedy=error.remedy) from error


def _kind(
    cause: BaseException | None, refused: type[QueueUnavailable]
) -> type[QueueUnavailable] | None:
    """What an answer of SQS means; None where it may be another one soon."""
    code, status = error_code(cause), http_status(cause)
    if code in GONE:
        return QueueGone
    if code in LOGIN:
        return LoginRefused
    if 400 <= status < 500 and code not in THROTTLED:
        return refused
    return None
