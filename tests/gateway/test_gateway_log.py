"""The log of a real gateway, as a log collector reads it."""

from __future__ import annotations

import json
import signal
from typing import Any

HUSH = "hush0hush0"


def test_a_gateways_log_in_json_is_json_from_the_first_to_the_last_line(login: Any) -> None:
    login.publish("one")
    gateway = login.gateway(
        *("--log-format", "json", "--limit-tasks", "1"),
        env={"AMQP_URL": f"amqp://guest:{HUSH}@127.0.0.1:1/"},
    )
    assert gateway.wait(120) == 0, login.log()
    told = [json.loads(line) for line in login.log().splitlines()]
    assert {"time", "level", "logger", "message", "host"} <= set.intersection(*map(set, told))
    (ending,) = [line for line in told if line.get("state") == "SUCCEEDED"]
    assert ending["queue"] == "local_work"
    assert ending["reason"] == "COMPLETED"
    assert ending["experiment"] in ending["message"]
    assert [line for line in told if line.get("batch") == ending["batch"] and line is not ending]
    assert HUSH not in login.log()


def test_a_log_format_that_is_none_is_refused(login: Any) -> None:
    _, said = login.run("gateway", "--log-format", "xml", code=2)
    assert "console" in said
    assert "json" in said


def test_a_gateway_shows_where_it_is_and_goes_on(login: Any, until: Any) -> None:
    gateway = login.gateway()
    gateway.send_signal(signal.SIGUSR1)
    until(lambda: "most recent call first" in login.log(), login.log)
    login.publish("one")
    until(lambda: login.runs("ended")["one"], login.log)
    gateway.terminate()
    assert gateway.wait(120) == 0, login.log()
