"""The address where Prometheus asks, and all the numbers put together behind it."""

from __future__ import annotations

import logging
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
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

log = logging.getLogger(__name__)

_ADDRESS = re.compile(r"(?:(?P<host>[^:\[\]\s]*)|\[(?P<six>[0-9A-Fa-f:.]+)\]):(?P<port>[0-9]{1,5})")
_LARGEST_PORT = 65535
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
def metrics_served(address: Address, spool: Spool, capacity: Capacity) -> Iterator[list[Tell]]:
    """Who is to be told what happens, while the numbers are served at the address.

    Raises EndpointTaken.
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
        server, thread = start_http_server(address.port, address.host or _ANY, registry)
    except OSError as error:
        raise EndpointTaken(
            f"cannot listen ({error.strerror or error})",
            where=f"--prom-address {address.host}:{address.port}",
            remedy="choose another port, or end what listens there",
        ) from error
    log.info("metrics at http://%s:%d/metrics", address.host or "*", server.server_port)
    try:
        yield [runner, counts]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
