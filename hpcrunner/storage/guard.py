"""Connections that a site's rule about hosts allows, checked where they are made.

A name is looked up once, its addresses are checked, and the connection goes to one of those: a
name that has another address a moment later (DNS rebinding) gains nothing. Every redirect is a
connection of its own. Where a proxy stands between, it makes the connection: then the host is
checked by its name, and by the addresses that it has here, if any.
"""

from __future__ import annotations

import http.client
import socket
import urllib.request
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from hpcrunner.request.hosts import HostRule, is_address, refused_always
from hpcrunner.storage.contract import ArtifactDenied


class AddressRefused(ArtifactDenied):
    """The site does not let messages have the gateway contact this host."""


def addresses_of(rule: HostRule, host: str, port: int) -> tuple[str, ...]:
    """The addresses of a host that the rule allows. Raises AddressRefused, OSError (unknown)."""
    found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    addresses = tuple(dict.fromkeys(str(info[4][0]) for info in found))
    allowed = tuple(address for address in addresses if rule.allows(host, address))
    if not allowed:
        raise _refused(host, addresses)
    return allowed


def check_name(rule: HostRule, host: str) -> None:
    """Check a host that somebody else will connect to. Raises AddressRefused.

    One that is not known here passes by its name, or where the rule has the public ones.
    """
    try:
        addresses_of(rule, host.strip("[]"), 0)
    except (OSError, UnicodeError):
        if not rule.names(host) and ("public" not in rule.allowed or is_address(host)):
            raise _refused(host, ()) from None


def check_url(rule: HostRule, url: str) -> None:
    """The same of a URL's host. Raises AddressRefused."""
    check_name(rule, urlsplit(url).hostname or "")


def connect(
    rule: HostRule,
    address: tuple[str, int],
    timeout: Any = None,
    source_address: tuple[str, int] | None = None,
) -> socket.socket:
    """As ``socket.create_connection``, to an address that the rule allows."""
    host, port = address
    *others, last = addresses_of(rule, host, port)
    for other in others:
        try:
            return socket.create_connection((other, port), timeout, source_address)
        except OSError:
            continue
    return socket.create_connection((last, port), timeout, source_address)


def web_opener(
    rule: HostRule | None, *more: urllib.request.BaseHandler
) -> urllib.request.OpenerDirector:
    """What opens http(s) addresses and no others; it follows a redirect only by ``more``."""
    # build_opener would add handlers for file:, ftp: and data: addresses, and redirects.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler() if rule is None else _Http(rule),
        urllib.request.HTTPSHandler() if rule is None else _Https(rule),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        *more,
    ):
        opener.add_handler(handler)
    return opener


class _Http(urllib.request.HTTPHandler):
    def __init__(self, rule: HostRule) -> None:
        super().__init__()
        self._rule = rule

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        made = _connection(http.client.HTTPConnection, self._rule, req)
        return self.do_open(made, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, rule: HostRule) -> None:
        super().__init__()
        self._rule = rule

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        made = _connection(http.client.HTTPSConnection, self._rule, req)
        return self.do_open(made, req)


def _connection(
    kind: type[http.client.HTTPConnection], rule: HostRule, request: urllib.request.Request
) -> Any:
    """What makes a connection for that request, through its proxy where it has one."""
    if request.has_proxy() or getattr(request, "_tunnel_host", None):
        check_url(rule, request.full_url)
        return kind

    def make(host: str, **options: Any) -> http.client.HTTPConnection:
        made: Any = kind(host, **options)
        made._create_connection = partial(connect, rule)
        return made  # type: ignore[no-any-return]

    return make


def guard_s3(client: Any, rule: HostRule) -> None:
    """Have all connections of a boto3 client be checked.

    Botocore has no hook for connections, so its pool is given classes of ours.
    """
    from botocore.awsrequest import (
        AWSHTTPConnection,
        AWSHTTPConnectionPool,
        AWSHTTPSConnection,
        AWSHTTPSConnectionPool,
    )

    pools = {}
    for scheme, pool, connection in (
        ("http", AWSHTTPConnectionPool, AWSHTTPConnection),
        ("https", AWSHTTPSConnectionPool, AWSHTTPSConnection),
    ):
        guarded = type(connection.__name__, (_Checked, connection), {"rule": rule})
        pools[scheme] = type(pool.__name__, (pool,), {"ConnectionCls": guarded})
    client._endpoint.http_session._manager.pool_classes_by_scheme = pools

    def before_send(request: Any, **_: Any) -> None:
        """Also through a proxy; and refused here, nothing is tried again."""
        check_url(rule, request.url)

    client.meta.events.register("before-send.s3", before_send)


class _Checked:
    """Goes before urllib3's connection: the name is replaced by an address while it connects."""

    rule: HostRule
    _dns_host: str
    port: int

    def _new_conn(self) -> Any:
        from urllib3.exceptions import HTTPError, NewConnectionError

        name = self._dns_host
        try:
            addresses = addresses_of(self.rule, name, self.port)
        except OSError as error:
            what = f"no address of {name}: {error}"
            raise NewConnectionError(self, what) from error  # type: ignore[arg-type]
        try:
            for address in addresses[:-1]:
                self._dns_host = address
                try:
                    return super()._new_conn()  # type: ignore[misc]
                except HTTPError:
                    continue
            self._dns_host = addresses[-1]
            return super()._new_conn()  # type: ignore[misc]
        finally:
            self._dns_host = name


def refused_in(error: BaseException) -> AddressRefused | None:
    """The refusal that a client's own error wraps, if there is one."""
    inner = getattr(error, "kwargs", {}).get("error")
    return inner if isinstance(inner, AddressRefused) else None


def _refused(host: str, addresses: tuple[str, ...]) -> AddressRefused:
    others = [address for address in addresses if address != host]
    known = f" ({', '.join(others[:4])})" if others else ""
    remedy = f"use a host that its gateway_hosts allow, or have {host} added to them"
    if addresses and all(map(refused_always, addresses)):
        remedy = "use another host: no site can allow this address"
    return AddressRefused(
        f"the site does not let messages have the gateway contact {host}{known}",
        where="gateway_hosts",
        remedy=remedy,
    )
