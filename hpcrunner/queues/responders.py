"""From the queue options a person gave to the ways back: the responders of all servers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from hpcrunner.errors import HpcrunnerError
from hpcrunner.queues.aws import access_of_folder, default_access
from hpcrunner.queues.contract import Responder
from hpcrunner.queues.google import access_of_file
from hpcrunner.queues.pubsub_respond import PubSubResponder
from hpcrunner.queues.rabbitmq_respond import RabbitResponder
from hpcrunner.queues.sources import QueueOptions, expanded, path_of
from hpcrunner.queues.sqs_respond import SqsResponder
from hpcrunner.queues.watched import PERIOD, Stamp, files_below, folders_in, stamp_of

RESPONDING = frozenset({"rmq", "sqs", "pubsub"})
"""The kinds of servers (see Served) that have response queues."""


class WatchedResponders:
    """A responder for each credential there is at the moment.

    ``look`` tells which there are and how they look, by name, and raises OSError where it cannot;
    ``make`` makes the responder of one, or raises HpcrunnerError. ``clock`` is monotonic seconds.
    """

    def __init__(
        self,
        look: Callable[[], Mapping[str, Stamp]],
        make: Callable[[str], Responder],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._make = make
        self._clock = clock
        self._look_at = float("-inf")
        self._opened: dict[str, tuple[Stamp, Responder | None]] = {}

    def responders(self) -> list[Responder]:
        """Those of now; a credential that cannot be used is the source's to complain of."""
        if self._clock() >= self._look_at:
            self._look_at = self._clock() + PERIOD
            with suppress(OSError):  # as they were: the folder may be away for a moment
                self._take_up(self._look())
        return [responder for _, responder in self._opened.values() if responder is not None]

    def _take_up(self, found: Mapping[str, Stamp]) -> None:
        for name, (stamp, responder) in list(self._opened.items()):
            if found.get(name) != stamp:
                del self._opened[name]
                if responder is not None:
                    responder.close()
        for name, stamp in found.items():
            if name not in self._opened:
                self._opened[name] = (stamp, self._made(name))

    def _made(self, name: str) -> Responder | None:
        try:
            return self._make(name)
        except HpcrunnerError:
            return None


class ServerResponders:
    """Responders by the names of their servers. Used from one thread."""

    def __init__(
        self, responders: Sequence[Responder], watched: Sequence[WatchedResponders] = ()
    ) -> None:
        self._fixed = list(responders)
        self._watched = list(watched)

    def find(self, server: str) -> Responder | None:
        """The responder of that server; None where there is none (any more)."""
        return next((r for r in self._all() if r.name == server), None)

    def tend(self) -> None:
        """See Responder.tend, for all."""
        for responder in self._all():
            responder.tend()

    def close(self) -> None:
        """See Responder.close, for all."""
        for responder in self._all():
            responder.close()

    def _all(self) -> list[Responder]:
        return [*self._fixed, *(one for each in self._watched for one in each.responders())]


def responders_from(
    options: QueueOptions, environ: Mapping[str, str] = os.environ
) -> ServerResponders:
    """The responders of these options, none of them connected yet. Raises OptionInvalid."""
    fixed: list[Responder] = []
    watched: list[WatchedResponders] = []
    amqp_url = expanded(options.amqp_url, "--amqp-url", environ)
    if amqp_url:
        name = f"hpcrunner {options.gateway_id}"
        fixed.append(RabbitResponder(amqp_url, connection_name=name))
    if options.sqs_certs:
        watched.append(_sqs(path_of(options.sqs_certs, "--sqs-certs", environ), options))
    if options.aws_region:
        fixed.append(SqsResponder(default_access(options.aws_region), timeout=options.sqs_timeout))
    if options.google_certs:
        certs = path_of(options.google_certs, "--google-certs", environ)
        watched.append(_pubsub(lambda: files_below(certs, ".json"), options, environ))
    if options.google_application_credentials:
        named = options.google_application_credentials
        file = path_of(named, "GOOGLE_APPLICATION_CREDENTIALS", environ)
        watched.append(_pubsub(lambda: {str(file): stamp_of([file])}, options, environ))
    return ServerResponders(fixed, watched)


def _sqs(root: Path, options: QueueOptions) -> WatchedResponders:
    return WatchedResponders(
        lambda: folders_in(root),
        lambda name: SqsResponder(access_of_folder(Path(name)), timeout=options.sqs_timeout),
    )


def _pubsub(
    look: Callable[[], Mapping[str, Stamp]], options: QueueOptions, environ: Mapping[str, str]
) -> WatchedResponders:
    def make(name: str) -> Responder:
        access = access_of_file(Path(name), environ)
        return PubSubResponder(access, timeout=options.pubsub_timeout)

    return WatchedResponders(look, make)
