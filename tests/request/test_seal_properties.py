"""Whatever the bytes are: a seal, a signature, an envelope and a key file end as documented."""

from __future__ import annotations

import base64
import copy
import json
from contextlib import suppress
from typing import Any

import client_seal as client
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcrunner.request.envelope import open_envelope
from hpcrunner.request.errors import KeyInvalid, RequestError
from hpcrunner.request.model import SealedRequest
from hpcrunner.request.parse import parse_message
from hpcrunner.request.rsakey import load_private_rsa, load_public_rsa
from hpcrunner.request.seal import NotForThisKey, SealError, seal, unseal
from hpcrunner.request.signature import SignatureRefused, load_signing_key, verify

KEY, SIGNER = client.rsa_key(), client.signing_key()
PUBLIC = KEY.public_key()

ANY_TEXT = st.text(st.characters(exclude_categories=()))
BASE64 = st.binary(max_size=300).map(lambda data: base64.b64encode(data).decode())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT | BASE64,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
FILES = [
    client.private_pem(KEY),
    client.public_pem(PUBLIC),
    client.public_line(SIGNER),
    KEY.private_bytes(client.PEM, client.serialization.PrivateFormat.OpenSSH, client.NO_ENCRYPTION),
    KEY.private_bytes(client.PEM, client.serialization.PrivateFormat.PKCS8, client.NO_ENCRYPTION),
    PUBLIC.public_bytes(*client.OPENSSH),
]


@given(st.binary(max_size=5000))
@settings(max_examples=50, deadline=None)
def test_every_plaintext_comes_out_as_it_went_in(plaintext: bytes) -> None:
    assert unseal(seal(plaintext, PUBLIC), [KEY]) == plaintext
    assert unseal(client.sealed(plaintext, PUBLIC), [KEY]) == plaintext


@given(ANY_TEXT | st.tuples(BASE64, BASE64).map(",".join), ANY_TEXT | BASE64)
@settings(max_examples=60, deadline=None)
def test_no_text_is_a_seal_or_a_signature_by_chance(payload: str, signature: str) -> None:
    try:
        unseal(payload, [KEY])
        raise AssertionError("a seal was made up")
    except SealError as error:
        assert "\n" not in error.line()
    try:
        verify(payload, signature, SIGNER.public_key())
        raise AssertionError("a signature was made up")
    except SignatureRefused as error:
        assert "\n" not in error.line()


SEALED = seal(b"x" * 100, PUBLIC)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_seal_altered_anywhere_does_not_open(data: Any) -> None:
    at = data.draw(st.integers(0, len(SEALED) - 1))
    new = data.draw(st.characters(codec="ascii").filter(lambda c: c != SEALED[at]))
    altered = SEALED[:at] + new + SEALED[at + 1 :]
    parts = [base64.b64decode(part, validate=False) for part in SEALED.split(",")]
    try:
        unseal(altered, [KEY])
    except (SealError, NotForThisKey):
        return
    # Only bits that base64 leaves over may have changed.
    assert [base64.b64decode(part) for part in altered.split(",")] == parts


ENVELOPE = client.envelope({"experiment": {}}, PUBLIC, SIGNER)
MEMBERS = [None, *ENVELOPE["message"], "pthonver"]


@given(st.sampled_from(MEMBERS), VALUES, st.booleans())
@settings(max_examples=60, deadline=None)
def test_an_envelope_with_any_member_replaced_ends_as_documented(
    member: str | None, value: Any, signed_anew: bool
) -> None:
    document = copy.deepcopy(ENVELOPE)
    if member is None:
        document["message"] = value
    else:
        document["message"][member] = value
        if signed_anew and isinstance(value, str):
            with suppress(UnicodeEncodeError):
                document["message"]["signature"] = base64.b64encode(
                    client.bare_signature(value, SIGNER)
                ).decode()
    try:
        sealed = parse_message(json.dumps(document).encode())
        if isinstance(sealed, SealedRequest):
            open_envelope(sealed, SIGNER.public_key(), [KEY])
    except (RequestError, SealError, SignatureRefused) as error:
        assert "\n" not in error.line()
        assert len(error.line()) < 1000


@given(st.binary(max_size=2000))
@settings(max_examples=60, deadline=None)
def test_whatever_was_sealed_is_a_request_or_refused_as_one(inside: bytes) -> None:
    sealed = parse_message(json.dumps(client.envelope(inside, PUBLIC, SIGNER)).encode())
    assert isinstance(sealed, SealedRequest)
    try:
        open_envelope(sealed, SIGNER.public_key(), [KEY])
    except RequestError as error:
        assert "\n" not in error.line()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_key_file_of_any_bytes_is_a_key_or_refused(data: Any) -> None:
    content = data.draw(st.binary(max_size=500) | st.sampled_from(FILES))
    if content in FILES:
        at = data.draw(st.integers(0, len(content)))
        length = data.draw(st.integers(0, 40))
        content = content[:at] + data.draw(st.binary(max_size=20)) + content[at + length :]
    for load in (load_public_rsa, load_private_rsa, load_signing_key):
        try:
            load(content)
        except KeyInvalid as error:
            assert "\n" not in error.line()
