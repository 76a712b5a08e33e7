"""A site's rule about hosts, where connections are made: real servers on several addresses."""

from __future__ import annotations

import http.server
import io
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from hpcrunner.request.hosts import HostRule
from hpcrunner.request.location import Location
from hpcrunner.request.reasons import Reason
from hpcrunner.storage import database
from hpcrunner.storage.contract import StoreUnreachable
from hpcrunner.storage.guard import AddressRefused, check_name
from hpcrunner.storage.http import HttpStore
from hpcrunner.storage.s3 import S3Store

HERE = HostRule(("127.0.0.1",))  # and no other address of this machine
NAMED = HostRule(("store.example",))


class Server(http.server.ThreadingHTTPServer):
    """Counts what it is asked; ``leads`` is where its pages redirect to."""

    daemon_threads = True
    leads = ""
    asked = 0


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        self.server.asked += 1
        self.send_response(302 if self.server.leads else 200)
        if self.server.leads:
            self.send_header("Location", self.server.leads)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"null")

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    """One that is allowed, and one on another address of this machine."""
    made = (Server(("127.0.0.1", 0), Page), Server(("127.0.0.2", 0), Page))
    for server in made:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    for server in made:
        server.shutdown()
        server.server_close()


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``named("127.0.0.1", "127.0.0.2")``: what store.example has at each look, the last one on."""

    def answer(*addresses: str) -> None:
        left = list(addresses)
        usual = socket.getaddrinfo

        def look(host: Any, *more: Any, **options: Any) -> Any:
            if host != "store.example":
                return usual(host, *more, **options)
            found = left.pop(0) if len(left) > 1 else left[0]
            return usual(found, *more, **options)

        monkeypatch.setattr(socket, "getaddrinfo", look)

    return answer


def at(server: Server, host: str = "") -> str:
    return f"http://{host or server.server_address[0]}:{server.server_port}"


def page(address: str, rule: HostRule) -> Location:
    return Location("http", "k", endpoint=address, hosts=rule)


def read(location: Location) -> bytes:
    with HttpStore(pause=lambda _: None).open(location) as found:
        return found.stream.read()


def test_an_address_that_is_not_allowed_is_never_connected_to(
    servers: tuple[Server, Server], named: Callable[..., None]
) -> None:
    named("127.0.0.2")
    good, bad = servers
    assert read(page(at(good), HERE)) == b"null"
    for address in (at(bad), at(bad, "store.example"), "http://[::ffff:127.0.0.2]:1/x"):
        with pytest.raises(AddressRefused) as caught:
            read(page(address, HERE))
        assert caught.value.reason is Reason.ARTIFACT_DENIED
        assert "gateway_hosts: the site does not let" in caught.value.line()
        assert " added to them" in caught.value.line()
    with pytest.raises(AddressRefused, match="no site can allow"):
        read(page("http://169.254.169.254/latest", HERE))
    with pytest.raises(AddressRefused):
        database.read_record(Location("firebase", "k", endpoint=at(bad), hosts=HERE))
    assert database.read_record(Location("firebase", "k", endpoint=at(good), hosts=HERE)) is None
    assert bad.asked == 0
    assert read(page(at(bad, "store.example"), NAMED)) == b"null", "named, whatever it has"


def test_a_redirect_leads_to_nothing_else(servers: tuple[Server, Server]) -> None:
    good, bad = servers
    good.leads = at(bad)
    with pytest.raises(AddressRefused):
        read(page(at(good), HERE))
    assert (good.asked, bad.asked) == (1, 0)


def test_a_name_that_changes_its_address_gains_nothing(
    servers: tuple[Server, Server], named: Callable[..., None]
) -> None:
    good, bad = servers
    named("127.0.0.1", "127.0.0.2")
    with pytest.raises((AddressRefused, StoreUnreachable)):
        for _ in range(3):  # the first goes where it was checked, the next is checked anew
            read(page(f"http://store.example:{bad.server_port}", HERE))
    assert bad.asked == 0 and good.asked == 0


def test_of_several_addresses_an_allowed_one_is_taken(
    servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first that answers: nobody listens at the last one."""
    good, bad = servers
    usual = socket.getaddrinfo

    def both(host: Any, port: Any, *more: Any, **options: Any) -> Any:
        names = ("127.0.0.2", "127.0.0.1", "127.0.0.3") if host == "store.example" else (host,)
        return [found for name in names for found in usual(name, port, *more, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    rule = HostRule(("127.0.0.1", "127.0.0.3"))
    assert read(page(at(good, "store.example"), rule)) == b"null"
    assert bad.asked == 0


def test_a_proxys_host_is_the_sites_and_the_target_is_checked_by_name(
    servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = servers
    from hpcrunner.storage import http as web

    web._opener.cache_clear()
    monkeypatch.setenv("http_proxy", at(bad))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    try:
        with pytest.raises(AddressRefused):
            read(page("http://127.0.0.3/x", HERE))
        assert bad.asked == 0
        assert read(page("http://nobody-knows.invalid/x", HostRule(("public",)))) == b"null"
        assert (good.asked, bad.asked) == (0, 1)
    finally:
        web._opener.cache_clear()


def test_s3_is_checked_where_it_connects(
    rclone: Any, named: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = rclone.at("guarded.tar")
    port = int(place.endpoint.rpartition(":")[2])
    good = replace(place, hosts=HERE)
    S3Store().put(good, io.BytesIO(b"content"), 7)
    with S3Store().open(good) as found:
        assert found.stream.read() == b"content"
    with pytest.raises(AddressRefused), S3Store().open(replace(place, hosts=HostRule())):
        pass
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    name = replace(good, endpoint=f"http://store.example:{port}")
    named("127.0.0.1", "127.0.0.2")  # another one once it was looked at
    with Server(("127.0.0.2", port), Page) as bad:
        threading.Thread(target=bad.serve_forever, args=(0.02,), daemon=True).start()
        with pytest.raises(AddressRefused), S3Store().open(name):
            pass
        bad.shutdown()
        assert bad.asked == 0


def test_who_connects_by_himself_is_checked_by_the_name(named: Callable[..., None]) -> None:
    named("10.1.2.3")
    for host in ("store.example", "localhost", "127.0.0.1", "[::1]", "169.254.169.254"):
        with pytest.raises(AddressRefused):
            check_name(HostRule(), host)
    check_name(NAMED, "store.example")
    check_name(HostRule(), "nobody-knows.invalid")
    with pytest.raises(AddressRefused):
        check_name(NAMED, "nobody-knows.invalid")
