"""Real parts for the queue tests: a virtual host of one's own, a relay to cut, a clock to turn."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from dev import queue_servers
from hpcrunner.queues.contract import Delivery, Source
from hpcrunner.queues.management import Management
from hpcrunner.queues.matching import QueueFilter
from hpcrunner.queues.rabbitmq import RabbitSource
from hpcrunner.queues.rabbitmq_publish import RabbitPublisher


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 1_600_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def wait_until(true: Callable[[], bool], seconds: float = 120.0) -> None:
    """Poll: what is waited for must come, how fast is no promise."""
    ends = time.monotonic() + seconds
    while not true():
        if time.monotonic() > ends:
            raise AssertionError(f"did not come about within {seconds} s")
        time.sleep(0.05)


@pytest.fixture
def eventually() -> Callable[..., None]:
    return wait_until


def take_until(source: Source, count: int) -> list[Delivery]:
    """What comes in several takes, as a gateway's loop makes them."""
    taken: list[Delivery] = []

    def enough() -> bool:
        taken.extend(source.take(count - len(taken)))
        return len(taken) >= count

    wait_until(enough)
    return taken


@pytest.fixture
def coming() -> Callable[[Source, int], list[Delivery]]:
    return take_until


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that is busy with other tests has its time for a listing."""
    monkeypatch.setitem(Management.__init__.__kwdefaults__, "timeout", 60.0)


@pytest.fixture(scope="session")
def sqs_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """moto's SQS, for all tests of a run."""
    try:
        with queue_servers.sqs(tmp_path_factory.mktemp("sqs") / "log") as url:
            yield url
    except queue_servers.NotHere as error:
        pytest.skip(str(error))


class Relay:
    """A TCP relay before the broker: counts, cuts and refuses connections."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.connections = 0
        self.sent = 0  # bytes from the client to the broker
        self.cut_after: float = float("inf")  # so many more bytes from the broker
        self.hung_up = 0  # connections the broker ended
        self.open = True
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                self.connections += 1
                if not self.open:
                    near.close()
                    continue
                far = socket.create_connection(self._target)
                self._pairs.append((near, far))
                threading.Thread(target=self._pump, args=(near, far, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(far, near, False), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if counted:
                    self.sent += len(data)
                else:
                    self.cut_after -= len(data)
                if self.cut_after < 0:
                    break
                target.sendall(data)
        self.hung_up += not counted
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def close(self) -> None:
        self._server.close()
        self.cut()


class Lab:
    """A virtual host of the development cluster's broker, for one test alone."""

    def __init__(self, facts: dict[str, object]) -> None:
        self.host, self.port = str(facts["host"]), int(str(facts["port"]))
        self.user, self.password = str(facts["user"]), str(facts["password"])
        self.management_url = str(facts["management_url"])
        self.vhost = f"queues/{uuid.uuid4().hex[:12]}"  # the slash asks for its escape
        self._sources: list[RabbitSource] = []
        self._users: list[str] = []
        self.api("PUT", f"/vhosts/{self._escaped}", {})
        self.allow(self.user)
        self.url = self.url_of(self.user, self.password)
        self.publisher = RabbitPublisher(self.url)
        self.relay = Relay(self.host, self.port)

    @property
    def _escaped(self) -> str:
        return quote(self.vhost, safe="")

    def url_of(self, user: str, password: str, port: int = 0) -> str:
        return f"amqp://{user}:{password}@{self.host}:{port or self.port}/{self._escaped}"

    @property
    def relayed_url(self) -> str:
        return self.url_of(self.user, self.password, self.relay.port)

    def api(self, method: str, path: str, body: object = None) -> object:
        request = urllib.request.Request(f"{self.management_url}/api{path}", method=method)
        login = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        request.add_header("Authorization", f"Basic {login}")
        request.add_header("Content-Type", "application/json")
        data = None if body is None else json.dumps(body).encode()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, data, timeout=20) as response:
            text = response.read()
        return json.loads(text) if text else None

    def allow(self, user: str, read: str = ".*") -> None:
        grant = {"configure": ".*", "write": ".*", "read": read}
        self.api("PUT", f"/permissions/{self._escaped}/{user}", grant)

    def add_user(self, read: str) -> str:
        """A user that may read only some queues; returns its URL."""
        user = f"test-{uuid.uuid4().hex[:8]}"
        self._users.append(user)
        self.api("PUT", f"/users/{user}", {"password": "pw", "tags": "management"})
        self.allow(user, read)
        return self.url_of(user, "pw")

    def source(self, url: str = "", match: str = "^rmq_", **options: object) -> RabbitSource:
        settings: dict[str, object] = {"management_url": self.management_url, "refresh": 0.0}
        if "queues" in options:
            settings = {}
        source = RabbitSource(
            url or self.url,
            QueueFilter(match),
            **{**settings, **options},  # type: ignore[arg-type]
        )
        self._sources.append(source)
        return source

    def queue(self, name: str) -> dict[str, object]:
        found = self.api("GET", f"/queues/{self._escaped}/{quote(name, safe='')}")
        assert isinstance(found, dict)
        return found

    def ready(self, name: str) -> int:
        """How many wait, asked of the queue itself: statistics come late."""
        channel = self.publisher._connection.channel()
        count = channel.queue_declare(name, passive=True).method.message_count
        channel.close()
        return int(count)

    def delete_queue(self, name: str) -> None:
        self.publisher.delete(name)

    def connections(self) -> list[str]:
        listed = self.api("GET", f"/vhosts/{self._escaped}/connections")
        assert isinstance(listed, list)
        return [c["name"] for c in listed if c.get("name")]

    def close_connections(self) -> None:
        """As an operator does: every connection to this virtual host, the publisher's too."""
        wait_until(lambda: len(self.connections()) >= 1 + len(self._sources))
        for name in self.connections():
            with contextlib.suppress(urllib.error.HTTPError):
                self.api("DELETE", f"/connections/{quote(name, safe='')}")
        self.publisher.close()
        self.publisher = RabbitPublisher(self.url)

    def close(self) -> None:
        for source in self._sources:
            source.close()
        self.publisher.close()
        self.relay.close()
        for user in self._users:
            self.api("DELETE", f"/users/{user}")
        self.api("DELETE", f"/vhosts/{self._escaped}")


@pytest.fixture(scope="session")
def broker_facts() -> dict[str, object]:
    state = Path(os.environ.get("HPCRUNNER_DEV_DIR") or "/var/tmp/hpcrunner-dev")
    try:
        facts = json.loads((state / "cluster.json").read_text())
    except FileNotFoundError:
        pytest.skip(f"no development cluster: {state}/cluster.json is not there")
    found = facts.get("rabbitmq")
    if not isinstance(found, dict):
        pytest.skip("the development cluster runs without RabbitMQ")
    return found


@pytest.fixture
def lab(broker_facts: dict[str, object]) -> Iterator[Lab]:
    lab = Lab(broker_facts)
    try:
        yield lab
    finally:
        lab.close()
