"""The management API: what is read from its answers, and what becomes of bad ones."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from hpcrunner.queues.amqp import ManagementAddress
from hpcrunner.queues.contract import QueueUnavailable
from hpcrunner.queues.discovery import listing
from hpcrunner.queues.management import Management, bound_queues, ready_messages
from hpcrunner.queues.matching import QueueFilter

BINDINGS = [
    {"source": "", "destination": "rmq_a", "destination_type": "queue", "routing_key": "rmq_a"},
    {
        "source": "StudioML.topic",
        "vhost": "/",
        "destination": "rmq_a",
        "destination_type": "queue",
        "routing_key": "StudioML.rmq_a",
        "arguments": {},
        "properties_key": "StudioML.rmq_a",
    },
    {
        "source": "StudioML.topic",
        "destination": "other.exchange",
        "destination_type": "exchange",
        "routing_key": "StudioML.x",
    },
    {
        "source": "amq.topic",
        "destination": "rmq_b",
        "destination_type": "queue",
        "routing_key": "StudioML.rmq_b",
    },
    {
        "source": "StudioML.topic",
        "destination": "rmq_c",
        "destination_type": "queue",
        "routing_key": "elsewhere.rmq_c",
    },
]


def test_queues_are_read_off_the_bindings_of_the_studioml_exchange() -> None:
    assert bound_queues(BINDINGS) == ["rmq_a"]
    assert bound_queues(BINDINGS * 2) == ["rmq_a"]


@pytest.mark.parametrize("document", [None, {}, "x", 7, [1, "x", None, {}, {"source": 3}]])
def test_answers_of_another_shape_name_no_queue(document: object) -> None:
    assert bound_queues(document) == []
    assert ready_messages(document) == {}


def test_a_queue_not_counted_yet_has_no_count() -> None:
    document = [{"name": "a", "messages_ready": 3}, {"name": "b"}, {"name": "c", "other": 1}]
    assert ready_messages(document) == {"a": 3}


def test_busy_are_our_queues_with_messages_only() -> None:
    found = listing(
        ["rmq_b", "rmq_a", "rmq_a_response", "other"],
        {"rmq_a": 2, "rmq_b": 0, "rmq_a_response": 5, "other": 5},
        QueueFilter(),
    )
    assert found.names == ("rmq_a", "rmq_b")
    assert found.busy == {"rmq_a"}


class Server(BaseHTTPRequestHandler):
    """Answers what the test laid down, and keeps what it was asked."""

    status: ClassVar[int] = 200
    body: ClassVar[bytes] = b"[]"
    location: ClassVar[str] = ""
    asked: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization", "")))
        self.send_response(self.status)
        if self.location:
            self.send_header("Location", self.location)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[type[Server]]:
    handler = type("Handler", (Server,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        handler.url = f"http://127.0.0.1:{http.server_port}"  # type: ignore[attr-defined]
        yield handler
        http.shutdown()


def management(server: type[Server], vhost: str = "/") -> Management:
    url = server.url  # type: ignore[attr-defined]
    return Management(ManagementAddress(url, "user", "pässwort"), vhost)


def test_it_asks_for_one_vhost_with_the_login(server: type[Server]) -> None:
    server.body = json.dumps(BINDINGS).encode()
    assert management(server, "team/one").bound_queues() == ["rmq_a"]
    login = base64.b64encode("user:pässwort".encode()).decode()
    assert server.asked == [
        ("/api/exchanges/team%2Fone/StudioML.topic/bindings/source", f"Basic {login}")
    ]


def test_no_exchange_means_no_queues_yet(server: type[Server]) -> None:
    server.status = 404
    assert management(server).bound_queues() == []


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_a_refusal_is_one_line_without_the_password(server: type[Server], status: int) -> None:
    server.status = status
    with pytest.raises(QueueUnavailable) as refused:
        management(server).ready()
    assert str(status) in refused.value.line()
    assert "--amqp-mgt-url" in refused.value.line()
    assert "pässwort" not in refused.value.line()


def test_a_redirect_does_not_carry_the_login_elsewhere(server: type[Server]) -> None:
    server.status = 302
    server.location = server.url + "/stolen"  # type: ignore[attr-defined]
    with pytest.raises(QueueUnavailable):
        management(server).ready()
    assert len(server.asked) == 1


@pytest.mark.parametrize("body", [b"<html>a login page</html>", b"", b"[" * 100_000])
def test_an_answer_that_is_not_json_is_no_empty_list(server: type[Server], body: bytes) -> None:
    server.body = body
    with pytest.raises(QueueUnavailable):
        management(server).bound_queues()


def test_a_proxy_of_the_environment_is_by_passed(
    server: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert management(server).ready() == {}
