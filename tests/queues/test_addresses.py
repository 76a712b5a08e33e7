"""URLs of brokers: what is derived from them, and what never shows of them."""

from __future__ import annotations

import pika.exceptions
import pytest

from hpcrunner.queues.amqp import ManagementAddress, broker, management_address, trouble
from hpcrunner.queues.errors import OptionInvalid


@pytest.mark.parametrize(
    ("url", "name", "vhost"),
    [
        ("amqp://u:p@host", "amqp://host:5672", "/"),
        ("amqp://u:p@host:1234/", "amqp://host:1234", "/"),
        ("amqp://u:p@host:1234/%2f", "amqp://host:1234", "/"),
        ("amqp://u:p@host/team%2Fone", "amqp://host:5672/team%2Fone", "team/one"),
        ("amqps://u:p%40%2F@host/v", "amqps://host:5671/v", "v"),
        ("amqp://host", "amqp://host:5672", "/"),
        ("amqp://u:p@[::1]:5/v", "amqp://[::1]:5/v", "v"),
    ],
)
def test_a_broker_is_named_without_credentials(url: str, name: str, vhost: str) -> None:
    found = broker(url)
    assert (found.name, found.vhost) == (name, vhost)


def test_no_credential_shows_in_a_repr() -> None:
    url = "amqp://someuser:somepassword@host/v"
    shown = repr(broker(url)) + repr(management_address(url))
    assert "somepassword" not in shown
    assert "someuser" not in shown


def test_settings_in_the_url_go_before_our_own() -> None:
    parameters = broker("amqp://u:p@host/v?heartbeat=7&socket_timeout=2").parameters
    assert (parameters.heartbeat, parameters.socket_timeout) == (7, 2)
    assert parameters.connection_attempts == 1
    assert parameters.blocked_connection_timeout is not None
    assert broker("amqp://u:p@host/v").parameters.heartbeat == 60


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host:5672",
        "http://u:secret@host",
        "amqp://",
        "amqp://u:secret@",
        "amqp://u:se/cret@host",
        "amqp://u:se#cret@host",
        "amqp://u:secret@host:port",
        "amqp://u:secret@host:99999",
        "amqp://u:secret@host:0",
        "amqp://u@host",
        "amqp://u:secret@[host",
        "amqp://u:secret@host/v?heartbeat=secret",
        "amqp://u:secret@host/v?nosuch=secret",
        "amqp://u:secret@host/v?heartbeat=1&heartbeat=2",
        "amqp://u:secret@host/v?tcp_options={secret",
    ],
)
def test_an_unusable_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(OptionInvalid) as refused:
        broker(url)
    assert refused.value.where == "--amqp-url"
    assert "secret" not in refused.value.line()
    assert "cret" not in refused.value.line()
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "given", "expected"),
    [
        ("amqp://u:p@host", "", ManagementAddress("http://host:15672", "u", "p")),
        ("amqps://u:p@host", "", ManagementAddress("https://host:15671", "u", "p")),
        ("amqp://u:p%40@host:16803/v", "", ManagementAddress("http://host:26803", "u", "p@")),
        ("amqp://u:p@[::1]:5", "", ManagementAddress("http://[::1]:10005", "u", "p")),
        (
            "amqp://u:p@host",
            "https://admin:s%2Fx@mgt.example/rabbit/",
            ManagementAddress("https://mgt.example/rabbit", "admin", "s/x"),
        ),
        ("amqp://u:p@host", "http://m:8080/api/", ManagementAddress("http://m:8080", "u", "p")),
        ("amqp://host", "", ManagementAddress("http://host:15672", "guest", "guest")),
    ],
)
def test_where_the_broker_is_managed(url: str, given: str, expected: ManagementAddress) -> None:
    assert management_address(url, given) == expected


@pytest.mark.parametrize("url", ["ftp://u:secret@h", "h:15672", "http://u@h", "file:///etc"])
def test_an_unusable_management_url_names_its_option(url: str) -> None:
    with pytest.raises(OptionInvalid) as refused:
        management_address("amqp://u:p@host", url)
    assert refused.value.where == "--amqp-mgt-url"
    assert "secret" not in refused.value.line()


def test_only_what_a_person_must_mend_is_lasting() -> None:
    refused = pika.exceptions.ConnectionClosedByBroker(403, "ACCESS_REFUSED")
    no_vhost = pika.exceptions.ConnectionClosedByBroker(530, "NOT_ALLOWED")
    forced = pika.exceptions.ConnectionClosedByBroker(320, "CONNECTION_FORCED")
    assert [trouble(e).lasting for e in (refused, no_vhost, forced)] == [True, True, False]
    assert trouble(ConnectionRefusedError(111, "Connection refused")).what == "Connection refused"
    assert "320" in trouble(forced).what
