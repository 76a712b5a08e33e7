"""Google Pub/Sub: the subscriptions of one project.

StudioML's client makes a topic ``<queue>`` and a subscription ``<queue>_sub``; such a queue goes
by its own name here. Any other subscription goes by its id.

A message stays in Pub/Sub until it is journalled: its deadline is set to a minute, in which it is
written down and acknowledged; else it comes again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from hpcrunner.queues.contract import EQUAL, Delivery, QueueUnavailable, Shares
from hpcrunner.queues.google import GoogleAccess, subscriber
from hpcrunner.queues.listening import HOLD, ListeningSource, LoginRefused, QueueGone, QueueRefused
from hpcrunner.queues.matching import QueueFilter

# With messages in the detailed lines.
logging.getLogger("google").setLevel(logging.WARNING)

PUBSUB_TIMEOUT = 5.0  # seconds, of one call
_SUFFIX = "_sub"
_MOST_AT_ONCE = 20  # of up to ten megabytes each
_MOST_IDS = 500  # of one request, which may have half a megabyte
_REFRESH = 60.0


@dataclass(frozen=True, slots=True)
class _Handle:
    subscription: str
    ack_id: str = field(repr=False)


class PubSubServer:
    """The subscriptions of one project, for a ListeningSource; see Server."""

    most_at_once = _MOST_AT_ONCE
    refresh = _REFRESH

    def __init__(
        self, access: GoogleAccess, queue_filter: QueueFilter, *, timeout: float = PUBSUB_TIMEOUT
    ) -> None:
        self._access = access
        self._filter = queue_filter
        self._timeout = timeout
        self._client = subscriber(access)

    @property
    def name(self) -> str:
        """See Server.name."""
        return self._access.server

    def queues(self) -> Mapping[str, str]:
        """Queue names by the full name of their subscription."""
        with told(self.name, refused=LoginRefused):
            subscriptions = list(
                self._client.list_subscriptions(
                    request={"project": f"projects/{self._access.project}"},
                    retry=None,
                    timeout=self._timeout,
                )
            )
        return {
            s.name: queue_of(s.name)
            for s in subscriptions
            if _pulled(s) and self._filter.admits(*{_id(s.name), queue_of(s.name)})
        }

    def receive(self, queue: str, most: int, wait: float) -> list[Delivery]:
        """See Server.receive."""
        from google.api_core.exceptions import DeadlineExceeded

        with told(f"{self.name}: queue {queue_of(queue)}", refused=QueueRefused):
            request = {"subscription": queue, "max_messages": min(most, _MOST_AT_ONCE)}
            if wait <= 0:
                request["return_immediately"] = True
            try:
                answer = self._client.pull(
                    request=request, retry=None, timeout=wait if wait > 0 else self._timeout
                )
            except DeadlineExceeded:
                return []  # nothing came for so long
            received = answer.received_messages
            if received:
                ids = [r.ack_id for r in received]
                self._set_deadline(queue, ids, HOLD)
        return [
            Delivery(
                queue_of(queue),
                bytes(r.message.data),
                # Told only where the subscription has a dead-letter policy.
                redelivered=r.delivery_attempt > 1,
                handle=_Handle(queue, r.ack_id),
            )
            for r in received
        ]

    def settle(self, deliveries: Sequence[Delivery]) -> int:
        """See Server.settle. Pub/Sub does not tell of single messages."""
        for subscription, ids in _batches(deliveries):
            with suppress(QueueGone), self._reading(subscription):
                self._client.acknowledge(
                    request={"subscription": subscription, "ack_ids": ids},
                    retry=None,
                    timeout=self._timeout,
                )
        return 0

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """See Server.give_back."""
        for subscription, ids in _batches(deliveries):
            with suppress(QueueGone), self._reading(subscription):
                self._set_deadline(subscription, ids, 0)

    def close(self) -> None:
        """See Server.close."""
        self._client.close()

    def _set_deadline(self, subscription: str, ids: Sequence[str], seconds: int) -> None:
        self._client.modify_ack_deadline(
            request={
                "subscription": subscription,
                "ack_ids": list(ids),
                "ack_deadline_seconds": seconds,
            },
            retry=None,
            timeout=self._timeout,
        )

    @contextmanager
    def _reading(self, subscription: str) -> Iterator[None]:
        with told(f"{self.name}: queue {queue_of(subscription)}", refused=QueueRefused):
            yield


def pubsub_source(
    access: GoogleAccess,
    queue_filter: QueueFilter,
    *,
    timeout: float = PUBSUB_TIMEOUT,
    shares: Shares = EQUAL,
) -> ListeningSource:
    """The Source of a project's queues; other arguments as for PubSubServer.

    Raises OptionInvalid.
    """
    subscriber(access).close()  # a key that is none is told of now
    return ListeningSource(
        access.server,
        "pubsub",
        lambda: PubSubServer(access, queue_filter, timeout=timeout),
        shares=shares,
    )


def queue_of(subscription: str) -> str:
    """The queue's name, as StudioML's client calls it."""
    name = _id(subscription)
    return name[: -len(_SUFFIX)] if name.endswith(_SUFFIX) and name != _SUFFIX else name


def _id(subscription: str) -> str:
    return subscription.rpartition("/")[2]


def _pulled(subscription: Any) -> bool:
    """Whether messages wait to be pulled: some are pushed, or written somewhere."""
    elsewhere = (
        subscription.push_config.push_endpoint,
        subscription.detached,
        # Not in every release of the library.
        getattr(subscription, "bigquery_config", None),
        getattr(subscription, "cloud_storage_config", None),
    )
    return not any(elsewhere)


def _batches(deliveries: Sequence[Delivery]) -> Iterator[tuple[str, list[str]]]:
    """Ids of one subscription each, no more than go into one request."""
    by_subscription: dict[str, list[str]] = {}
    for delivery in deliveries:
        if not isinstance(delivery.handle, _Handle):
            raise TypeError("a delivery of another source")
        ids = by_subscription.setdefault(delivery.handle.subscription, [])
        ids.append(delivery.handle.ack_id)
    for subscription, ids in by_subscription.items():
        for start in range(0, len(ids), _MOST_IDS):
            yield subscription, ids[start : start + _MOST_IDS]


@contextmanager
def told(where: str, *, refused: type[QueueUnavailable]) -> Iterator[None]:
    """What Google's library raises, as one of ours."""
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError, RefreshError

    try:
        yield
    except exceptions.NotFound as error:
        raise QueueGone("is not there", where=where) from error
    except exceptions.Unauthenticated as error:
        raise LoginRefused("the login was refused", where=where, remedy=_LOGIN) from error
    except exceptions.PermissionDenied as error:
        raise refused("permission denied", where=where, remedy=_ROLES) from error
    except (exceptions.InvalidArgument, exceptions.FailedPrecondition) as error:
        raise refused(f"Pub/Sub says {error.message}", where=where) from error
    except exceptions.GoogleAPIError as error:
        what = getattr(error, "message", "") or type(error).__name__
        raise QueueUnavailable(f"Pub/Sub: {what}", where=where) from error
    except RefreshError as error:
        kind = QueueUnavailable if error.retryable else LoginRefused
        raise kind("the login was refused", where=where, remedy=_LOGIN) from error
    except (GoogleAuthError, OSError, ValueError) as error:
        raise QueueUnavailable(f"Pub/Sub: {type(error).__name__}", where=where) from error


_LOGIN = "check the service account's file"
_ROLES = (
    "the service account needs the roles Pub/Sub Subscriber and Viewer, and Publisher for reports"
)
