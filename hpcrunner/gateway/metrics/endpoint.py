"""The address where Prometheus asks, and all the numbers put together behind it."""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    make_wsgi_app,
)

from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.capacity import Capacity
from hpcrunner.gateway.happenings import Tell
from hpcrunner.gateway.metrics.counts import Counts
from hpcrunner.gateway.metrics.journal import JournalMetrics, JournalNumbers
from hpcrunner.gateway.metrics.kinds import Kinds
from hpcrunner.gateway.metrics.runner import RunnerMetrics
from hpcrunner.gateway.spool import Spool
from hpcrunner.queues.errors import OptionInvalid

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

log = logging.getLogger(__name__)

_ADDRESS = re.compile(r"(?:(?P<host>[^:\[\]\s]*)|\[(?P<six>[0-9A-Fa-f:.]+)\]):(?P<port>[0-9]{1,5})")
_LARGEST_PORT = 65535
_PATIENCE = 5.0
_ANY = "0.0.0.0"  # noqa: S104 - only where somebody asks for it


class EndpointTaken(HpcrunnerError):
    """Nobody can listen at the metrics' address now."""

    exit_code = 69  # EX_UNAVAILABLE


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; an empty host is every address of the machine, port 0 any free one."""

    host: str
    port: int


def address_of(text: str) -> Address | None:
    """``host:port``, ``[::1]:port`` or ``:port``; None for an empty text. Raises OptionInvalid."""
    if not text:
        return None
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > _LARGEST_PORT:
        raise OptionInvalid(
            f"{text!r} is no address",
            where="--prom-address",
            remedy="give host:port, such as 127.0.0.1:9090",
        )
    return Address(match["host"] or match["six"] or "", int(match["port"]))


@contextmanager
def metrics_served(
    address: Address, spool: Spool, capacity: Capacity, *, patience: float = _PATIENCE
) -> Iterator[list[Tell]]:
    """Who is to be told what happens, while the numbers are served at the address.

    ``patience`` is how long (seconds) a client may keep silent. Raises EndpointTaken.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    numbers, kinds = JournalNumbers(spool, time.monotonic), Kinds()
    counts = Counts(registry, kinds)
    registry.register(JournalMetrics(numbers, time.time))
    runner = RunnerMetrics(numbers, kinds, capacity, socket.gethostname(), time.monotonic)
    registry.register(runner)
    try:
        server = _server(address, make_wsgi_app(registry), patience)
    except OSError as error:
        raise EndpointTaken(
            f"cannot listen ({error.strerror or error})",
            where=f"--prom-address {address.host}:{address.port}",
            remedy="choose another port, or end what listens there",
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    log.info("metrics at http://%s:%d/metrics", address.host or "*", server.server_port)
    try:
        yield [runner, counts]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _server(address: Address, app: WSGIApplication, patience: float) -> WSGIServer:
    """A server that answers one after the other: whoever can reach it, no crowd of them takes
    more of the gateway than one thread. Raises OSError.
    """

    class Server(WSGIServer):
        address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET

        def handle_error(self, request: object, client_address: object) -> None:
            log.debug("metrics: %s went away", client_address, exc_info=True)

    class Handler(WSGIRequestHandler):
        timeout = patience

        def log_message(self, *words: object) -> None:
            pass  # each scrape would be a line

    return make_server(address.host or _ANY, address.port, app, Server, Handler)
