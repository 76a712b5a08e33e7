"""From the queue options a person gave to the ways back: the responders of all servers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from hpcrunner.queues.contract import Responder
from hpcrunner.queues.rabbitmq_respond import RabbitResponder
from hpcrunner.queues.sources import QueueOptions, expanded

RESPONDING = frozenset({"rmq"})
"""The kinds of servers (see Served) that have response queues."""


class ServerResponders:
    """Responders by the names of their servers. Used from one thread."""

    def __init__(self, responders: Sequence[Responder]) -> None:
        self._by_name = {responder.name: responder for responder in responders}

    def find(self, server: str) -> Responder | None:
        """The responder of that server; None where there is none (any more)."""
        return self._by_name.get(server)

    def tend(self) -> None:
        """See Responder.tend, for all."""
        for responder in self._by_name.values():
            responder.tend()

    def close(self) -> None:
        """See Responder.close, for all."""
        for responder in self._by_name.values():
            responder.close()


def responders_from(
    options: QueueOptions, environ: Mapping[str, str] = os.environ
) -> ServerResponders:
    """The responders of these options, none of them connected yet. Raises OptionInvalid."""
    responders: list[Responder] = []
    amqp_url = expanded(options.amqp_url, "--amqp-url", environ)
    if amqp_url:
        name = f"hpcrunner {options.gateway_id}"
        responders.append(RabbitResponder(amqp_url, connection_name=name))
    return ServerResponders(responders)
