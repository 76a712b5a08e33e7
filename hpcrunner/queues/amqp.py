"""A broker's address from a URL: connection parameters, management address, name for logs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

import pika
import pika.exceptions
from pika.adapters.utils.connection_workflow import AMQPConnectorException

from hpcrunner.queues.contract import QueueUnavailable
from hpcrunner.queues.errors import OptionInvalid

EXCHANGE = "StudioML.topic"
EXCHANGE_TYPE = "topic"
ROUTING_PREFIX = "StudioML."
MANAGEMENT_PORT_OFFSET = 10000

AMQP_FAILURES = (pika.exceptions.AMQPError, AMQPConnectorException, OSError)
"""Whatever pika raises where a broker is away, refuses, or breaks off."""

_CLOSED_DURING_LOGIN = re.compile(r"ConnectionClosedByBroker: \((\d+)\)")

_AMQP_URL = "--amqp-url"
_MANAGEMENT_URL = "--amqp-mgt-url"
_ENCODE = "write user:password@host:port/vhost, with any of /#?@%: in the password percent-encoded"

# The broker gives up after two of these without a word, so a minute in one submission is well
# within; and a broker that hangs holds a take up for one of them.
_HEARTBEAT = 60
_SETTINGS: dict[str, object] = {
    "heartbeat": _HEARTBEAT,
    "connection_attempts": 1,
    "retry_delay": 0,
    "socket_timeout": 4.0,
    "stack_timeout": 5.0,
    "blocked_connection_timeout": 30.0,
    # The kernel gives a dead network up long before the heartbeat does (tcp(7)).
    "tcp_options": {"TCP_KEEPIDLE": 30, "TCP_USER_TIMEOUT": 20_000},
}


@dataclass(frozen=True, slots=True)
class Broker:
    """Where a broker is and how to log in; ``name`` is for people."""

    name: str
    vhost: str
    parameters: pika.URLParameters = field(repr=False)


@dataclass(frozen=True, slots=True)
class ManagementAddress:
    """Where the management API answers (``base`` ends before ``/api``) and how to log in."""

    base: str
    user: str = field(repr=False)
    password: str = field(repr=False)


def broker(url: str, connection_name: str = "hpcrunner") -> Broker:
    """The broker of an ``amqp://`` or ``amqps://`` URL. Raises OptionInvalid.

    What pika takes as query parameters (``heartbeat``, ``socket_timeout`` …) goes before our
    own settings.
    """
    parts = _split(url, _AMQP_URL, ("amqp", "amqps"))
    try:
        parameters = pika.URLParameters(url)
        given = parse_qs(parts.query)
        for setting, value in _SETTINGS.items():
            if setting not in given:
                setattr(parameters, setting, value)
        if "client_properties" not in given:
            parameters.client_properties = {"connection_name": connection_name}
    except (ValueError, TypeError, SyntaxError, OSError):
        # Without the cause: pika's words may hold parts of the URL.
        raise OptionInvalid("not a usable AMQP URL", where=_AMQP_URL, remedy=_ENCODE) from None
    vhost = str(parameters.virtual_host)
    shown = "" if vhost == "/" else "/" + quote(vhost, safe="")
    name = f"{parts.scheme}://{_host(parts)}:{parameters.port}{shown}"
    return Broker(name, vhost, parameters)


def management_address(url: str, management_url: str = "") -> ManagementAddress:
    """Where the broker of ``url`` is managed. Raises OptionInvalid.

    Default: its host, its port + 10000, https for amqps. A login in ``management_url`` goes
    before that of ``url``.
    """
    at = broker(url)
    login = at.parameters.credentials
    user, password = str(login.username), str(login.password)
    if not management_url:
        parts = urlsplit(url)
        scheme = "https" if parts.scheme == "amqps" else "http"
        port = at.parameters.port + MANAGEMENT_PORT_OFFSET
        return ManagementAddress(f"{scheme}://{_host(parts)}:{port}", user, password)
    parts = _split(management_url, _MANAGEMENT_URL, ("http", "https"))
    if parts.username is not None:
        user, password = unquote(parts.username), unquote(parts.password or "")
    port_text = f":{parts.port}" if parts.port else ""
    path = parts.path.rstrip("/").removesuffix("/api")
    return ManagementAddress(f"{parts.scheme}://{_host(parts)}{port_text}{path}", user, password)


def _split(url: str, option: str, schemes: tuple[str, ...]) -> SplitResult:
    try:
        parts = urlsplit(url)
        good = parts.scheme in schemes and bool(parts.hostname)
        good = good and (parts.port is None or parts.port > 0)
        good = good and (parts.username is None) == (parts.password is None)
    except ValueError:
        good = False
    if not good:
        wanted = " or ".join(f"{scheme}://" for scheme in schemes)
        raise OptionInvalid(f"not a usable {wanted} URL", where=option, remedy=_ENCODE)
    return parts


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    return f"[{host}]" if ":" in host else host


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a broker could not be used. ``lasting`` where only a person can mend it."""

    what: str
    remedy: str = ""
    lasting: bool = False

    def at(self, where: str) -> QueueUnavailable:
        """This trouble as an error."""
        return QueueUnavailable(self.what, where=where, remedy=self.remedy)


def trouble(error: BaseException) -> Trouble:
    """What a pika or socket error means, in words and without credentials."""
    exceptions = pika.exceptions
    code = getattr(error, "reply_code", None)
    if isinstance(
        error, (exceptions.ProbableAuthenticationError, exceptions.ProbableAccessDeniedError)
    ):
        # What pika makes of any end during the login. A broker that dies just then refuses
        # nothing; one that refuses has said so, and pika keeps its words as text.
        said = _CLOSED_DURING_LOGIN.search(str(error))
        if said is None:
            return Trouble("broke off during the login", f"if this goes on, check {_AMQP_URL}")
        code = int(said[1])
    if isinstance(error, exceptions.AuthenticationError) or (
        code == 403 and isinstance(error, exceptions.AMQPConnectionError)
    ):
        return Trouble("the login was refused", f"check user and password in {_AMQP_URL}", True)
    if code == 530:
        return Trouble(
            "the virtual host is not there or not for this user", f"check {_AMQP_URL}", True
        )
    if isinstance(error, exceptions.IncompatibleProtocolError):
        # Also what a balancer without a living broker behind it looks like: it may pass.
        return Trouble("what answers there does not speak AMQP 0-9-1", f"check {_AMQP_URL}")
    if code is not None:
        text = getattr(error, "reply_text", "during the login")
        return Trouble(f"closed by the broker: {code} {text}")
    if isinstance(error, AMQPConnectorException):
        return Trouble("no answer in time")
    inner = next((a for a in error.args if isinstance(a, BaseException)), None)
    if inner is not None:
        return trouble(getattr(inner, "exception", inner))
    if isinstance(error, OSError):
        return Trouble(error.strerror or str(error) or type(error).__name__)
    return Trouble(str(error) or type(error).__name__)
