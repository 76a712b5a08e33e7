"""Of which messages reports are due: of those whose sender is known, or may be anybody."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import client_seal as client
import pytest

from hpcrunner.gateway.experiment import Reports, State
from hpcrunner.gateway.intake import Intake
from hpcrunner.gateway.opening import Opener
from hpcrunner.gateway.spool import Verb
from hpcrunner.keys.keyring import keyring_from
from hpcrunner.keys.options import KeyOptions
from hpcrunner.queues.contract import Delivery, Served

KEY, SIGNER = client.rsa_key(), client.signing_key()
WRONG = base64.b64encode(bytes(64)).decode()


@pytest.fixture
def take(parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What becomes of one message that came from RabbitMQ."""
    encrypt, signing = client.write_keys(
        tmp_path / "keys",
        {"ssh-privatekey": client.private_pem(KEY)},
        {"rmq_": client.public_line(SIGNER)},
    )

    def take(
        body: bytes, *, kind: str = "rmq", clear: bool = True, kinds: tuple[str, ...] = ("rmq",)
    ) -> Any:
        monkeypatch.setattr(type(parts.pile), "served", lambda _: Served(kind))
        options = KeyOptions(
            encrypt_dir=str(encrypt), request_signatures_dir=str(signing), clear_text=clear
        )
        opener = Opener(keyring_from(options), options, (), own="own")
        intake = Intake(
            [parts.pile],
            parts.journal,
            parts.site,
            clock=parts.clock,
            new_id=lambda: f"{next(parts.ids):012x}",
            opener=opener,
            reports=kinds,
        )
        parts.pile.waiting.append(Delivery("rmq_mine", body, False, None, "amqp://broker"))
        assert intake.drain(10) == 1
        return parts.journal.recent(1)[0]

    return take


def sealed(body: bytes, **how: Any) -> bytes:
    how = {"recipient": KEY.public_key(), "signer": SIGNER, **how}
    return json.dumps(client.envelope(body, **how)).encode()


def nonsense(key: str) -> bytes:
    return json.dumps({"config": {}, "experiment": {"key": key, "args": 7}}).encode()


def test_reports_are_due_of_what_runs(take: Any, message: Any) -> None:
    for body in (message("clear"), sealed(message("closed"))):
        found = take(body)
        assert (found.state, found.reports) == (State.ACCEPTED, Reports.DUE)
        assert found.server == "amqp://broker"


def test_none_are_due_where_nobody_could_be_told(take: Any, message: Any) -> None:
    assert take(message("a"), kinds=()).reports is Reports.NONE
    assert take(message("b"), kind="local").reports is Reports.NONE


def test_a_request_that_is_impossible_is_told_so(take: Any, message: Any) -> None:
    for body in (message("big", ram="900g"), sealed(message("closed", ram="900g"))):
        found = take(body)
        assert (found.state, found.reports) == (State.REJECTED, Reports.DUE)


def test_a_clear_message_that_makes_no_sense_is_told_so_where_it_names_its_experiment(
    take: Any,
) -> None:
    assert take(nonsense("mine")).reports is Reports.DUE
    assert take(nonsense("")).reports is Reports.NONE
    assert take(b"{").reports is Reports.NONE


@pytest.mark.parametrize(
    "how",
    [
        {"signature": None},
        {"fingerprint": None},
        {"signature": WRONG},
        {"signer": client.signing_key(1)},
        {"recipient": client.rsa_key(1).public_key()},
        {"payload": "one part"},
    ],
)
def test_what_fails_a_check_of_its_seal_or_signature_is_answered_with_nothing(
    take: Any, message: Any, how: dict[str, Any]
) -> None:
    found = take(sealed(message("bad"), **how))
    assert (found.state, found.reports) == (State.REJECTED, Reports.NONE)


def test_clear_text_where_none_is_taken_is_answered_with_nothing(take: Any, message: Any) -> None:
    for body in (message("a"), nonsense("b")):
        found = take(body, clear=False)
        assert (found.state, found.reports) == (State.REJECTED, Reports.NONE)


def test_what_is_retried_by_hand_is_told_of_again(take: Any, message: Any, parts: Any) -> None:
    found = take(message("big", ram="900g"))
    parts.journal.reported([found.id])
    parts.site.partitions[0].__dict__["max_memory"] = 10**12
    parts.spool.wish(Verb.RETRY, [found.id])
    parts.wishes.step()
    (retried,) = parts.journal.live()
    assert (retried.reports, retried.server) == (Reports.DUE, "amqp://broker")
