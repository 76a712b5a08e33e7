"""A stand-in for Google Pub/Sub: a gRPC server with the few calls that are used here.

It speaks the real protocol with the library's own message classes, and nothing more: the tests
take Google's emulator where the machine has it. Faults (a refusal, an outage) are its own trade.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import empty_pb2
from google.pubsub_v1 import types

_CALLS: dict[str, tuple[str, Any, Any]] = {
    "CreateTopic": ("Publisher", types.Topic, types.Topic),
    "Publish": ("Publisher", types.PublishRequest, types.PublishResponse),
    "CreateSubscription": ("Subscriber", types.Subscription, types.Subscription),
    "ListSubscriptions": (
        "Subscriber",
        types.ListSubscriptionsRequest,
        types.ListSubscriptionsResponse,
    ),
    "DeleteSubscription": ("Subscriber", types.DeleteSubscriptionRequest, empty_pb2.Empty),
    "Pull": ("Subscriber", types.PullRequest, types.PullResponse),
    "Acknowledge": ("Subscriber", types.AcknowledgeRequest, empty_pb2.Empty),
    "ModifyAckDeadline": ("Subscriber", types.ModifyAckDeadlineRequest, empty_pb2.Empty),
}


@dataclass
class _Message:
    message: Any
    visible_at: float = 0.0
    ack_id: str = ""


@dataclass
class StandIn:
    """Topics and subscriptions in memory. ``refusals`` maps a call to the code it ends with."""

    refusals: dict[str, grpc.StatusCode] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    topics: set[str] = field(default_factory=set)
    subscriptions: dict[str, Any] = field(default_factory=dict)
    waiting: dict[str, list[_Message]] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def answer(self, call: str, request: Any, context: Any) -> Any:
        self.calls.append(call)
        if call in self.refusals:
            context.abort(self.refusals[call], f"{call} is refused")
        with self._changed:
            wanted = getattr(request, "subscription", None)
            if wanted is not None and wanted not in self.subscriptions:
                context.abort(grpc.StatusCode.NOT_FOUND, "no such subscription")
            return getattr(self, f"_{call}")(request, context)

    def _CreateTopic(self, request: Any, _: Any) -> Any:
        self.topics.add(request.name)
        return request

    def _CreateSubscription(self, request: Any, _: Any) -> Any:
        self.subscriptions[request.name] = request
        self.waiting[request.name] = []
        return request

    def _DeleteSubscription(self, request: Any, _: Any) -> Any:
        del self.subscriptions[request.subscription], self.waiting[request.subscription]
        return empty_pb2.Empty()

    def _ListSubscriptions(self, request: Any, _: Any) -> Any:
        names = sorted(n for n in self.subscriptions if n.startswith(f"{request.project}/"))
        start = int(request.page_token or 0)
        end = start + 2  # so that every listing has pages
        return types.ListSubscriptionsResponse(
            subscriptions=[self.subscriptions[n] for n in names[start:end]],
            next_page_token=str(end) if end < len(names) else "",
        )

    def _Publish(self, request: Any, context: Any) -> Any:
        if request.topic not in self.topics:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such topic")
        for name, subscription in self.subscriptions.items():
            if subscription.topic == request.topic:
                self.waiting[name] += [_Message(m) for m in request.messages]
        self._changed.notify_all()
        return types.PublishResponse(
            message_ids=[str(next(self._numbers)) for _ in request.messages]
        )

    def _Pull(self, request: Any, context: Any) -> Any:
        while True:
            if request.subscription not in self.waiting:
                context.abort(grpc.StatusCode.NOT_FOUND, "deleted meanwhile")
            now = time.monotonic()
            found = [m for m in self.waiting[request.subscription] if m.visible_at <= now]
            if found or request.return_immediately or not context.is_active():
                break
            self._changed.wait(0.05)
        for held in found[: request.max_messages]:
            held.ack_id = f"ack-{next(self._numbers)}"
            held.visible_at = now + self.subscriptions[request.subscription].ack_deadline_seconds
        return types.PullResponse(
            received_messages=[
                types.ReceivedMessage(ack_id=m.ack_id, message=m.message)
                for m in found[: request.max_messages]
            ]
        )

    def _Acknowledge(self, request: Any, _: Any) -> Any:
        there = self.waiting[request.subscription]
        there[:] = [m for m in there if m.ack_id not in request.ack_ids]
        return empty_pb2.Empty()

    def _ModifyAckDeadline(self, request: Any, _: Any) -> Any:
        for held in self.waiting[request.subscription]:
            if held.ack_id in request.ack_ids:
                held.visible_at = time.monotonic() + request.ack_deadline_seconds
        self._changed.notify_all()
        return empty_pb2.Empty()


@contextmanager
def serving(stand_in: StandIn) -> Iterator[str]:
    """Serve it on loopback; yields host:port."""
    server = grpc.server(futures.ThreadPoolExecutor(16))
    by_service: dict[str, dict[str, Any]] = {}
    for call, (service, asked, answered) in _CALLS.items():
        by_service.setdefault(service, {})[call] = grpc.unary_unary_rpc_method_handler(
            _handler(stand_in, call),
            request_deserializer=asked.deserialize,
            response_serializer=getattr(answered, "serialize", None) or answered.SerializeToString,
        )
    for service, methods in by_service.items():
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(f"google.pubsub.v1.{service}", methods)]
        )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0)


def _handler(stand_in: StandIn, call: str) -> Callable[[Any, Any], Any]:
    return lambda request, context: stand_in.answer(call, request, context)
