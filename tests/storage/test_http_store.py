"""Web addresses, from a server that misbehaves."""

from __future__ import annotations

import io
import os
import socket
import threading
from typing import Any

import pytest

from hpcrunner.request.location import Location
from hpcrunner.storage.contract import (
    ArtifactDenied,
    ArtifactNotFound,
    StorageError,
    StoreUnreachable,
)
from hpcrunner.storage.http import MOST_ATTEMPTS, HttpStore


def read(location: Location) -> bytes:
    pauses: list[float] = []
    with HttpStore(pause=pauses.append).open(location) as found:
        data = found.stream.read()
    assert found.size == len(data)
    return data


def url(address: str) -> Location:
    return Location("http", "k", endpoint=address)


def test_a_page_is_read_with_its_size_and_etag(faulty: Any) -> None:
    faulty.content = b"content"
    with HttpStore().open(faulty.http("/a/b.bin?signature=x#part")) as found:
        assert (found.size, found.etag) == (7, "v1")
        assert found.stream.read() == b"content"
    assert faulty.seen[0][0] == "GET /a/b.bin?signature=x"


def test_user_and_password_become_basic_auth_and_are_not_told(faulty: Any) -> None:
    faulty.content = b"x"
    address = faulty.url.replace("://", "://us%40er:pass%2Fw0rd@") + "/secret?token=t0ken"
    assert read(url(address)) == b"x"
    line, headers = faulty.seen[0]
    assert line == "GET /secret?token=t0ken"
    assert headers["Authorization"] == "Basic dXNAZXI6cGFzcy93MHJk"
    faulty.fail(403)
    with pytest.raises(ArtifactDenied) as caught:
        read(url(address))
    assert "w0rd" not in str(caught.value)
    assert "t0ken" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_token_goes_to_its_server_and_no_other(faulty: Any) -> None:
    faulty.content = b"x"
    faulty.fail(302, location=faulty.url.replace("127.0.0.1", "localhost") + "/other")
    place = Location("http", "k", endpoint=faulty.url + "/a", token="t0ken")
    assert read(place) == b"x"
    assert faulty.seen[0][1]["Authorization"] == "Bearer t0ken"
    assert "Authorization" not in faulty.seen[1][1]
    faulty.fail(401)
    with pytest.raises(ArtifactDenied) as caught:
        read(place)
    assert "t0ken" not in f"{caught.value} {place!r}"


@pytest.mark.parametrize("status", [405, 501])
def test_a_server_without_head_is_asked_for_the_object(faulty: Any, status: int) -> None:
    faulty.content = b"x" * 1000
    faulty.fail(status)
    look = HttpStore().look(faulty.http())
    assert (look.size, look.etag) == (1000, "v1")
    assert [line for line, _ in faulty.seen] == ["HEAD /data.bin", "GET /data.bin"]


def test_bytes_are_given_as_they_come() -> None:
    come = threading.Event()

    def serve() -> None:
        client, _ = server.accept()
        with client:
            client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf ")
            come.wait(120)
            client.sendall(b"whole")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        with HttpStore().open(url(f"http://127.0.0.1:{server.getsockname()[1]}/a")) as found:
            first = found.stream.read(1 << 20)  # would wait for ever, and for the other half
            come.set()
            rest = found.stream.read(1 << 20)
        thread.join()
    assert (first, rest) == (b"half ", b"whole")


def test_a_look_costs_no_content_and_names_strong_etags_only(faulty: Any) -> None:
    faulty.content = b"x" * 1000
    faulty.fail(302, location="/there")
    look = HttpStore().look(faulty.http())
    assert (look.size, look.etag) == (1000, "v1")
    assert [line for line, _ in faulty.seen] == ["HEAD /data.bin", "HEAD /there"]
    faulty.etag = 'W/"v1"'
    assert HttpStore().look(faulty.http()).etag == ""
    faulty.fail(404)
    with pytest.raises(ArtifactNotFound):
        HttpStore().look(faulty.http())


def test_redirects_are_followed(faulty: Any) -> None:
    faulty.content = b"there"
    faulty.fail(302, location="/elsewhere")
    assert read(faulty.http()) == b"there"
    assert faulty.seen[1][0] == "GET /elsewhere"


def test_the_password_goes_along_on_the_same_server_only(faulty: Any) -> None:
    faulty.content = b"x"
    address = faulty.url.replace("://", "://u:p@") + "/a"
    faulty.fail(302, location="/same")
    read(url(address))
    assert "Authorization" in faulty.seen[1][1]
    faulty.seen.clear()
    faulty.fail(302, location=faulty.url.replace("127.0.0.1", "localhost") + "/other")
    read(url(address))
    assert "Authorization" not in faulty.seen[1][1]


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "gopher:x"]
)
def test_redirects_lead_to_the_web_only(faulty: Any, target: str) -> None:
    faulty.fail(302, location=target)
    with pytest.raises(ArtifactNotFound, match="redirected"):
        read(faulty.http())


def test_redirects_in_a_circle_end(faulty: Any) -> None:
    faulty.fail(*[302] * 50, location="/again")
    with pytest.raises(ArtifactNotFound, match="redirected"):
        read(faulty.http())
    assert len(faulty.seen) < 20


@pytest.mark.parametrize(
    "address", ["file:///etc/passwd", "ftp://h/x", "no url", "http://", "http://[x"]
)
def test_only_web_addresses_are_read(address: str) -> None:
    with pytest.raises(ArtifactNotFound, match="not a web address"):
        read(url(address))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, ArtifactNotFound),
        (410, ArtifactNotFound),
        (400, ArtifactNotFound),
        (401, ArtifactDenied),
        (403, ArtifactDenied),
    ],
)
def test_refusals_are_final(faulty: Any, status: int, error: type[StorageError]) -> None:
    faulty.fail(*[status] * 9)
    with pytest.raises(error, match=str(status)):
        read(faulty.http())
    assert len(faulty.seen) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_troubles_are_waited_out(faulty: Any, status: int) -> None:
    faulty.content = b"x"
    faulty.fail(status, status)
    assert read(faulty.http()) == b"x"
    faulty.fail(*[status] * 9)
    with pytest.raises(StoreUnreachable, match=str(status)):
        read(faulty.http())
    assert len(faulty.seen) == 3 + MOST_ATTEMPTS


def test_nobody_at_the_port_is_unreachable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(StoreUnreachable, match="no answer"):
            read(url(f"http://127.0.0.1:{taken.getsockname()[1]}/x"))


def test_a_broken_connection_goes_on_where_it_was(faulty: Any) -> None:
    faulty.content = os.urandom(3 << 20)
    faulty.cut(1_000_000, 700_000)
    assert read(faulty.http()) == faulty.content
    assert all(headers["If-Range"] == faulty.etag for _, headers in faulty.seen[1:])


def test_a_page_that_changed_meanwhile_is_not_mixed(faulty: Any) -> None:
    faulty.content = os.urandom(3 << 20)
    faulty.ranges = False
    faulty.cut(1 << 20)
    with pytest.raises(StorageError, match="cannot send the rest"):
        read(faulty.http())


def test_nothing_is_put(faulty: Any) -> None:
    with pytest.raises(ArtifactDenied, match="only be read"):
        HttpStore().put(faulty.http(), io.BytesIO(b"x"), 1)
    assert faulty.seen == []
