"""Envelopes: telling one, its header, and opening it in the order of the protocol's checks."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import client_seal as client
import pytest

from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.envelope import open_envelope
from hpcrunner.request.errors import RequestError
from hpcrunner.request.model import Request, SealedRequest
from hpcrunner.request.parse import parse_message
from hpcrunner.request.seal import NotForThisKey, SealError, seal
from hpcrunner.request.signature import SignatureRefused

Messages = Callable[..., bytes]
KEY, SIGNER = client.rsa_key(), client.signing_key()
WRONG = base64.b64encode(bytes(64)).decode()


def enveloped(request: bytes, **how: Any) -> bytes:
    return json.dumps(client.envelope(request, KEY.public_key(), SIGNER, **how)).encode()


def opened(body: bytes) -> tuple[Request, bytes]:
    sealed = parse_message(body)
    assert isinstance(sealed, SealedRequest)
    return open_envelope(sealed, SIGNER.public_key(), [KEY])


@pytest.mark.parametrize(
    ("text", "sealed"),
    [
        ('{"message": {"payload": ""}}', True),
        ('{"message": {"payload": null}}', True),
        ('{"Message": {"payload": "x"}}', True),
        ('{"\\u006dessage": {"payload": "x"}}', True),
        ('{"message": {"payload": "x"}, "experiment": {"key": "k"}}', True),
        ('{"message": {}}', False),
        ('{"message": {"encrypted_data": "x"}}', False),
        ('{"message": "payload"}', False),
        ('{"message": ["payload"]}', False),
        ('{"payload": "x"}', False),
        ("{}", False),
    ],
)
def test_an_envelope_is_an_object_message_with_a_payload(text: str, sealed: bool) -> None:
    try:
        found = isinstance(parse_message(text.encode()), SealedRequest)
    except RequestError:
        found = False  # read as clear text, and no sound request
    assert found is sealed


def test_real_clear_text_is_no_envelope_and_a_real_envelope_is_one(
    captured: Callable[[str], bytes],
) -> None:
    assert isinstance(parse_message(captured("run_0.0.49")), Request)
    assert isinstance(parse_message(captured("encrypted_0.0.49")), SealedRequest)


@pytest.mark.parametrize("spelling", ["pythonver", "pthonver"])
def test_the_header_has_pythonver_in_two_spellings(message: Messages, spelling: str) -> None:
    header = {"status": "waiting", spelling: "3.8"}
    sealed = parse_message(enveloped(message(), experiment=header))
    assert isinstance(sealed, SealedRequest)
    assert sealed.python_version == "3.8"


@pytest.mark.parametrize("ssh", [False, True])
def test_what_was_sealed_comes_out_byte_for_byte(message: Messages, ssh: bool) -> None:
    body = message(experiment__info={"ü": [1.5, None]})
    request, clear = opened(enveloped(body, ssh=ssh))
    assert clear == body
    assert request == parse_message(body)


def test_every_captured_request_survives_the_envelope(captured: Callable[[str], bytes]) -> None:
    for name in ("run_0.0.49", "hyperparam_0.0.49", "completion_service_0.0.44.post6"):
        body = captured(name)
        request, clear = opened(enveloped(body))
        assert (request, clear) == (parse_message(body), body)


def test_a_missing_signature_or_fingerprint_is_refused(message: Messages) -> None:
    for missing in ("signature", "fingerprint"):
        for value in (None, ""):
            with pytest.raises(SignatureRefused, match=f"{missing}: missing"):
                opened(enveloped(message(), **{missing: value}))


def test_a_fingerprint_of_another_key_is_not_held_against_it(message: Messages) -> None:
    other = client.fingerprint_of(client.signing_key(1))
    opened(enveloped(message(), fingerprint=other))
    opened(enveloped(message(), fingerprint="whatever"))


def test_a_bad_signature_is_refused_before_the_seal_is_looked_at(message: Messages) -> None:
    with pytest.raises(SignatureRefused):
        opened(enveloped(message(), payload="no seal at all", signature=WRONG))


def test_a_seal_for_another_key_is_refused(message: Messages) -> None:
    payload = seal(message(), client.rsa_key(1).public_key())
    with pytest.raises(NotForThisKey):
        opened(enveloped(message(), payload=payload))


def test_a_signed_text_that_is_no_seal_is_refused(message: Messages) -> None:
    for payload in ("one part", "a,b,c", "&&,&&", ","):
        with pytest.raises(SealError):
            opened(enveloped(message(), payload=payload))


def test_a_payload_of_another_type_is_refused() -> None:
    for payload in ([1], {"a": 1}):
        with pytest.raises(RequestError, match="payload"):
            opened(enveloped(b"{}", payload=payload, signature=WRONG))


def test_what_is_inside_must_be_a_request(message: Messages) -> None:
    for inside in (b"", b"\xff", b"[]", b'"x"', b"{}", message(experiment__filename="/etc/passwd")):
        with pytest.raises(RequestError):
            opened(enveloped(inside))


def test_an_envelope_inside_an_envelope_is_refused(message: Messages) -> None:
    with pytest.raises(RequestError, match="inside another"):
        opened(enveloped(enveloped(message())))


@pytest.mark.parametrize(
    ("header", "inner"),
    [
        ({"ram": "6gb"}, {"ram": 6 * 10**9}),
        ({"ram": "1g", "cpus": "2"}, {"ram": "1000m", "cpus": 2.0}),
        ({"gpuMem": "0gb", "gpus": 0}, {}),
        ({}, {"gpuMem": "", "hdd": None, "cpus": 1}),
        ({"gpuCount": "1"}, {"gpuCount": 1.0}),
        (None, {}),
    ],
)
def test_resources_agree_once_their_units_are_settled(
    message: Messages, header: dict[str, Any] | None, inner: dict[str, Any]
) -> None:
    opened(enveloped(message(experiment__resources_needed=inner), resources_needed=header))


@pytest.mark.parametrize(
    ("header", "inner", "said"),
    [
        ({"cpus": 1}, {"cpus": 64}, "cpus"),
        ({}, {"gpus": 1}, "gpus"),
        ({"gpus": 1}, {}, "gpus"),
        ({"ram": "1g"}, {"ram": "1gib"}, "ram"),
        ({"hdd": "1g", "gpuMem": "2g"}, {"hdd": "2g"}, "gpu_memory, hdd"),
        (None, {"ram": "1g"}, "ram"),
    ],
)
def test_a_header_that_asks_for_something_else_is_refused(
    message: Messages, header: dict[str, Any] | None, inner: dict[str, Any], said: str
) -> None:
    body = enveloped(message(experiment__resources_needed=inner), resources_needed=header)
    with pytest.raises(RequestError, match=f"resources_needed: differs .* in {said};"):
        opened(body)


def test_a_header_whose_resources_cannot_be_read_is_refused(message: Messages) -> None:
    for wrong in ([], "much", {"cpus": -1}, {"ram": "much"}, {"gpus": {}}):
        with pytest.raises(RequestError, match="resources_needed"):
            parse_message(enveloped(message(), resources_needed=wrong))


def test_no_refusal_shows_what_was_sealed(message: Messages) -> None:
    secret = "hush-hush-hush"
    body = message(config__env={"TOKEN": secret}, experiment__filename="../x")
    spoiled = [
        {},
        {"signature": WRONG},
        {"resources_needed": {"cpus": 64}},
        {"payload": f"{secret},{secret}"},
    ]
    for changed in spoiled:
        with pytest.raises(HpcrunnerError) as refused:
            opened(enveloped(body, **changed))
        assert secret not in refused.value.line()
