"""Signatures over payloads in both encodings, and fingerprints as OpenSSH prints them."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path

import client_seal as client
import pytest

from hpcrunner.request.errors import KeyInvalid
from hpcrunner.request.signature import (
    SignatureRefused,
    fingerprint,
    load_signing_key,
    verify,
)

REQUESTS = Path(__file__).parents[1] / "data" / "requests"
PAYLOAD = base64.b64encode(os.urandom(12 * 1024)).decode() + ",QUJD"


@pytest.mark.parametrize(
    ("blob", "printed"),
    [
        (
            "AAAAC3NzaC1lZDI1NTE5AAAAIFITo06Pk8sqCMoMHPaQiQ7BY3pjf7OE8BDcsnYozmIG",
            "SHA256:rM9uPGQWiB8BrF542H5tJdVQoWU2+jw00w1KnXjywTY",
        ),
        (
            "AAAAC3NzaC1lZDI1NTE5AAAAIKohNVg9rRRrUlOSdksrXczWzuR9jN+NE2ZpX2Myw+k9",
            "SHA256:0Q8tSkwT/m8p4eAsUIFDUfonQZyleEla5nFQCvWE5lk",
        ),
    ],
)
def test_a_fingerprint_is_openssh_s(blob: str, printed: str) -> None:
    for line in (f"ssh-ed25519 {blob}", f"ssh-ed25519 {blob} me@home\n"):
        assert fingerprint(load_signing_key(line.encode())) == printed


def test_ssh_keygen_prints_the_same_fingerprints(tmp_path: Path) -> None:
    for key in (client.signing_key().public_key(), client.rsa_key().public_key()):
        path = tmp_path / "key.pub"
        path.write_bytes(key.public_bytes(*client.OPENSSH))
        printed = subprocess.run(
            ["ssh-keygen", "-l", "-f", str(path)], capture_output=True, text=True, check=True
        ).stdout
        assert printed.split()[1] == fingerprint(key)


def encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def test_both_encodings_are_verified() -> None:
    signer = client.signing_key()
    key = load_signing_key(client.public_line(signer))
    for raw in (client.bare_signature(PAYLOAD, signer), client.ssh_signature(PAYLOAD, signer)):
        verify(PAYLOAD, encoded(raw), key)


def test_what_follows_a_signature_in_ssh_s_form_is_ignored() -> None:
    signer = client.signing_key()
    raw = client.ssh_signature(PAYLOAD, signer)
    for more in (b"\0", b"more", b"x" * 500):
        verify(PAYLOAD, encoded(raw + more), signer.public_key())


def test_nothing_may_follow_a_bare_signature() -> None:
    signer = client.signing_key()
    with pytest.raises(SignatureRefused, match="not an Ed25519 signature"):
        verify(
            PAYLOAD, encoded(client.bare_signature(PAYLOAD, signer) + b"\0"), signer.public_key()
        )


@pytest.mark.parametrize("ssh", [False, True])
def test_another_key_or_an_altered_payload_is_a_bad_signature(ssh: bool) -> None:
    make = client.ssh_signature if ssh else client.bare_signature
    signer, other = client.signing_key(0), client.signing_key(1)
    signature = encoded(make(PAYLOAD, signer))
    for payload, key in ((PAYLOAD, other), (PAYLOAD + "A", signer), (PAYLOAD[:-1], signer)):
        with pytest.raises(SignatureRefused, match="not made by the key of this queue"):
            verify(payload, signature, key.public_key())


def ssh_string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0",
        bytes(63),
        bytes(65),
        ssh_string(b"ssh-ed25519"),
        ssh_string(b"ssh-ed25519") + ssh_string(bytes(63)),
        ssh_string(b"ssh-ed25519") + ssh_string(bytes(65)),
        ssh_string(b"ssh-ed25519") + b"\xff\xff\xff\xff" + bytes(64),
        ssh_string(b"ssh-rsa") + ssh_string(bytes(64)),
        b"\xff\xff\xff\xffssh-ed25519" + ssh_string(bytes(64)),
    ],
)
def test_what_is_no_signature_is_refused(raw: bytes) -> None:
    with pytest.raises(SignatureRefused, match=r"not an Ed25519 signature|missing"):
        verify(PAYLOAD, encoded(raw), client.signing_key().public_key())


@pytest.mark.parametrize("text", ["%", "AAA", "ä", "\ud800", "A" * 10_000, " " * 88])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(SignatureRefused, match="not base64"):
        verify(PAYLOAD, text, client.signing_key().public_key())


def test_a_payload_that_is_no_text_is_a_bad_signature() -> None:
    with pytest.raises(SignatureRefused):
        verify("\ud800", encoded(bytes(64)), client.signing_key().public_key())


def test_the_captured_signature_is_readable_but_of_a_key_that_is_not_ours() -> None:
    captured = json.loads((REQUESTS / "encrypted_0.0.49.json").read_text())["payload"]["message"]
    with pytest.raises(SignatureRefused, match="not made by the key of this queue"):
        verify(captured["payload"], captured["signature"], client.signing_key().public_key())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"ssh-ed25519",
        b"ssh-ed25519 ",
        b"ssh-ed25519 AAAA",
        b"ssh-ed25519 !!!!",
        b"\xff\xfe",
        b"ssh-ed25519 " + b"A" * 100_000,
        b"ssh-rsa " + client.public_line(client.signing_key()).split()[1],
        b"ssh-ed25519 " + client.rsa_key().public_key().public_bytes(*client.OPENSSH).split()[1],
        client.rsa_key().public_key().public_bytes(*client.OPENSSH),
        b'command="x" ' + client.public_line(client.signing_key()),
    ],
)
def test_what_is_no_signing_key_is_refused(data: bytes) -> None:
    with pytest.raises(KeyInvalid):
        load_signing_key(data)
