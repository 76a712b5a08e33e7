"""The gateway's log: two forms, no secret in either."""

from __future__ import annotations

import io
import json
import logging
import re

import pytest

from hpcrunner.cli.logging import ConsoleFormatter, JsonFormatter

HUSH = "hush0hush0"


def logger_to(out: io.StringIO, formatter: logging.Formatter) -> logging.Logger:
    logger = logging.Logger("some.room")
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    logger.addHandler(handler)
    return logger


@pytest.fixture(params=[ConsoleFormatter, JsonFormatter])
def both(request: pytest.FixtureRequest) -> tuple[logging.Logger, io.StringIO]:
    out = io.StringIO()
    return logger_to(out, request.param()), out


def test_a_json_line_holds_what_a_machine_asks_for() -> None:
    out = io.StringIO()
    logger = logger_to(out, JsonFormatter())
    logger.warning("%s set aside", "e1", extra={"experiment": "e1", "queue": "rmq_x", "batch": ""})
    logger.info("a\nb \u00e4 \udcff")
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first.pop("host")
    assert first == {
        "level": "WARNING",
        "logger": "some.room",
        "message": "e1 set aside",
        "experiment": "e1",
        "queue": "rmq_x",
    }
    assert second["message"] == "a\nb \u00e4 \udcff"
    assert out.getvalue().isascii()


def test_a_traceback_is_one_json_line_too() -> None:
    out = io.StringIO()
    try:
        raise ValueError("broken")
    except ValueError:
        logger_to(out, JsonFormatter()).exception("a fault")
    (line,) = out.getvalue().splitlines()
    told = json.loads(line)
    assert told["message"] == "a fault"
    assert told["exception"].startswith("Traceback")
    assert told["exception"].endswith("ValueError: broken")


@pytest.mark.parametrize(
    "text",
    [
        f"export AWS_SECRET_ACCESS_KEY={HUSH}",
        f"git+https://{HUSH}@github.com/o/r",
        f"amqp://guest:{HUSH}@broker:5672/",
        f"-----BEGIN PRIVATE KEY-----\n{HUSH}\n-----END PRIVATE KEY-----",
        f"https://hooks.slack.com/services/T0/B0/{HUSH}",
        f"Authorization: Bearer {HUSH}{HUSH}",
    ],
)
def test_no_secret_is_logged_wherever_it_stands(
    text: str, both: tuple[logging.Logger, io.StringIO]
) -> None:
    logger, out = both
    logger.info(text)
    logger.info("as argument: %s", text)
    logger.info("as field", extra={"experiment": text})
    try:
        raise RuntimeError(text)
    except RuntimeError:
        logger.exception("as exception")
    assert out.getvalue()
    assert HUSH not in out.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "site mine, spool /home/ann/.hpcrunner",
        "rmq_keys: 3 message(s) taken and journalled",
        "8f0a12bc34de FAILED: exit code 1; last line: KeyError: 'token' (PAYLOAD_EXIT)",
        "rmq_x: 8f0a12bc34de set aside: message.signature: does not verify; sign it again",
        "queue rmq_x skipped: NOT_FOUND - no queue 'rmq_x' in vhost '/'",
    ],
)
def test_ordinary_lines_stay_as_they_are(
    text: str, both: tuple[logging.Logger, io.StringIO]
) -> None:
    logger, out = both
    logger.info(text)
    said = out.getvalue()
    assert (json.loads(said)["message"] if said.startswith("{") else said.strip()).endswith(text)
