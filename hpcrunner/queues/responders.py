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
from hpcrunner.queues.rabbitmq_respond import RabbitResponder
from hpcrunner.queues.sources import QueueOptions, expanded
from hpcrunner.queues.sqs_respond import SqsResponder
from hpcrunner.queues.watched import PERIOD, Stamp, folders_in

RESPONDING = frozenset({"rmq", "sqs"})
"""The kinds of servers (see Served) that have response queues."""


class WatchedFolders:
    """A responder for each sub-folder of SQS credentials there is at the moment.

    ``clock`` is monotonic seconds.
    """

    def __init__(
        self, root: Path, *, timeout: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._root = root
        self._timeout = timeout
        self._clock = clock
        self._look_at = float("-inf")
        self._opened: dict[str, tuple[Stamp, SqsResponder | None]] = {}

    def responders(self) -> list[Responder]:
        """Those of now; a folder that cannot be used is the source's to complain of."""
        if self._clock() >= self._look_at:
            self._look_at = self._clock() + PERIOD
            with suppress(OSError):  # as they were: the folder may be away for a moment
                self._take_up(folders_in(self._root))
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

    def _made(self, folder: str) -> SqsResponder | None:
        try:
            return SqsResponder(access_of_folder(Path(folder)), timeout=self._timeout)
        except HpcrunnerError:
            return None


class ServerResponders:
    """Responders by the names of their servers. Used from one thread."""

    def __init__(
        self, responders: Sequence[Responder], watched: WatchedFolders | None = None
    ) -> None:
        self._fixed = list(responders)
        self._watched = watched

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
        return [*self._fixed, *(self._watched.responders() if self._watched else ())]


def responders_from(
    options: QueueOptions, environ: Mapping[str, str] = os.environ
) -> ServerResponders:
    """The responders of these options, none of them connected yet. Raises OptionInvalid."""
    fixed: list[Responder] = []
    watched = None
    amqp_url = expanded(options.amqp_url, "--amqp-url", environ)
    if amqp_url:
        name = f"hpcrunner {options.gateway_id}"
        fixed.append(RabbitResponder(amqp_url, connection_name=name))
    if options.sqs_certs:
        root = Path(expanded(options.sqs_certs, "--sqs-certs", environ)).expanduser().absolute()
        watched = WatchedFolders(root, timeout=options.sqs_timeout)
    if options.aws_region:
        fixed.append(SqsResponder(default_access(options.aws_region), timeout=options.sqs_timeout))
    return ServerResponders(fixed, watched)
