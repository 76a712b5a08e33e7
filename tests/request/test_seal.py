"""The hybrid seal: what one side makes the other reads, and nobody else."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import client_seal as client
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from nacl.secret import SecretBox

from hpcrunner.request.errors import KeyInvalid
from hpcrunner.request.rsakey import load_private_rsa, load_public_rsa
from hpcrunner.request.seal import (
    MAX_SEALED,
    NotForThisKey,
    SealError,
    seal,
    unseal,
)

REQUESTS = Path(__file__).parents[1] / "data" / "requests"


def flipped(text: str, part: int, byte: int) -> str:
    """``text`` with one bit of one of its two parts turned over."""
    parts = [bytearray(base64.b64decode(p)) for p in text.split(",")]
    parts[part][byte] ^= 1
    return ",".join(base64.b64encode(p).decode() for p in parts)


@pytest.mark.parametrize("size", [0, 1, 16 * 1024, 1 << 20])
def test_what_is_sealed_is_what_is_unsealed(size: int) -> None:
    plaintext = os.urandom(size)
    key = client.rsa_key()
    assert unseal(seal(plaintext, key.public_key()), [key]) == plaintext


def test_a_message_sealed_by_the_format_alone_is_opened() -> None:
    key = client.rsa_key()
    assert unseal(client.sealed(b"Hello World!", key.public_key()), [key]) == b"Hello World!"


def test_our_seal_is_opened_by_the_format_alone() -> None:
    key = client.rsa_key()
    first, second = seal(b"Hello World!", key.public_key()).split(",")
    secret = key.decrypt(base64.b64decode(first, validate=True), client.oaep())
    assert len(secret) == 32
    assert SecretBox(secret).decrypt(base64.b64decode(second, validate=True)) == b"Hello World!"


def test_no_two_seals_are_alike() -> None:
    public = client.rsa_key().public_key()
    assert seal(b"same", public) != seal(b"same", public)


@pytest.mark.parametrize("bits", [2048, 4096])
def test_pem_of_both_kinds_seals_and_opens(bits: int) -> None:
    key = client.rsa_key(bits=bits)
    private, public = client.private_pem(key), client.public_pem(key.public_key())
    assert private.startswith(b"-----BEGIN RSA PRIVATE KEY-----")
    assert public.startswith(b"-----BEGIN RSA PUBLIC KEY-----")
    plaintext = os.urandom(256)
    sealed = seal(plaintext, load_public_rsa(public))
    assert unseal(sealed, [load_private_rsa(private)]) == plaintext


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("byte", [0, 23, 24, 40, -1])
def test_one_altered_bit_anywhere_and_it_does_not_open(part: int, byte: int) -> None:
    key = client.rsa_key()
    with pytest.raises(NotForThisKey):
        unseal(flipped(seal(b"x" * 64, key.public_key()), part, byte), [key])


def test_a_secret_key_with_one_altered_bit_does_not_open_it() -> None:
    key = client.rsa_key()
    plaintext = os.urandom(16 * 1024)
    first, second = seal(plaintext, key.public_key()).split(",")
    secret = bytearray(key.decrypt(base64.b64decode(first), client.oaep()))
    secret[7] ^= 1
    first = base64.b64encode(key.public_key().encrypt(bytes(secret), client.oaep())).decode()
    with pytest.raises(NotForThisKey):
        unseal(f"{first},{second}", [key])


def test_a_sealed_key_of_another_length_is_refused() -> None:
    key = client.rsa_key()
    _, second = seal(b"x", key.public_key()).split(",")
    for length in (0, 31, 33):
        first = key.public_key().encrypt(b"k" * length, client.oaep())
        with pytest.raises(NotForThisKey):
            unseal(f"{base64.b64encode(first).decode()},{second}", [key])


def test_of_several_keys_the_one_it_was_sealed_for_opens_it() -> None:
    keys = [client.rsa_key(0), client.rsa_key(1), client.rsa_key(bits=4096)]
    for key in keys:
        assert unseal(seal(b"x", key.public_key()), keys) == b"x"
    with pytest.raises(NotForThisKey):
        unseal(seal(b"x", keys[0].public_key()), keys[1:])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "0 commas"),
        ("abcd", "0 commas"),
        ("abcd,abcd,abcd", "2 commas"),
        (",", "a part of it is missing"),
        ("abcd,", "a part of it is missing"),
        (",abcd", "a part of it is missing"),
        ("abcd," + "A" * 52, "a part of it is missing"),  # 39 bytes: no room for nonce and tag
        ("abc,abcd", "base64"),
        ("ab cd,abcd", "base64"),
        ("abcd,ab\ncd", "base64"),
        ("äbcd,abcd", "base64"),
        ("\ud800bcd,abcd", "base64"),
        ("ab-_,abcd", "base64"),
        ("A" * 4100 + ",abcd", "too long"),
        ("abcd," + "A" * MAX_SEALED, "characters"),
    ],
)
def test_what_is_no_seal_is_one_clear_error(text: str, said: str) -> None:
    with pytest.raises(SealError) as refused:
        unseal(text, [client.rsa_key()])
    assert said in refused.value.line()
    assert "abcd" not in refused.value.line()


def test_the_captured_message_is_a_seal_but_not_for_us() -> None:
    captured = json.loads((REQUESTS / "encrypted_0.0.49.json").read_text())["payload"]["message"]
    bits = 8 * len(base64.b64decode(captured["payload"].split(",")[0]))
    assert bits in (2048, 3072, 4096)
    with pytest.raises(NotForThisKey):
        unseal(captured["payload"], [client.rsa_key(bits=bits)])


def test_public_keys_are_read_in_every_form_that_tools_write() -> None:
    public = client.rsa_key().public_key()
    forms = [
        client.public_pem(public),
        b"\n" + client.public_pem(public) + b"\n\n",
        public.public_bytes(client.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        + b" me@home\n",
    ]
    for form in forms:
        assert load_public_rsa(form).public_numbers() == public.public_numbers()


def small_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=1024)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\x00",
        b"ssh-rsa AAAA",
        b"ssh-rsa !!!!",
        b"-----BEGIN RSA PUBLIC KEY-----\nMIIB\n-----END RSA PUBLIC KEY-----\n",
        b"x" * 100_000,
        client.public_line(client.signing_key()),
        client.signing_key()
        .public_key()
        .public_bytes(client.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        client.private_pem(client.rsa_key()),
        client.public_pem(small_key().public_key()),
    ],
)
def test_what_is_no_public_rsa_key_is_refused(data: bytes) -> None:
    with pytest.raises(KeyInvalid):
        load_public_rsa(data)


@pytest.mark.parametrize(
    "form",
    [
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.PrivateFormat.PKCS8,
        serialization.PrivateFormat.OpenSSH,
    ],
)
@pytest.mark.parametrize("passphrase", [b"", b"a pass phrase", "gehe\u00edm".encode()])
def test_private_keys_are_read_in_every_form_with_and_without_a_passphrase(
    form: serialization.PrivateFormat, passphrase: bytes
) -> None:
    key = client.rsa_key()
    how: serialization.KeySerializationEncryption = client.NO_ENCRYPTION
    if passphrase:
        how = serialization.BestAvailableEncryption(passphrase)
    data = key.private_bytes(client.PEM, form, how)
    assert load_private_rsa(data, passphrase).private_numbers() == key.private_numbers()
    # An editor's line end is no part of it; and a passphrase that is not needed is not used.
    assert load_private_rsa(data, (passphrase or b"unused") + b"\n").key_size == key.key_size
    if passphrase:
        for wrong in (b"", b"wrong"):
            with pytest.raises(KeyInvalid, match="passphrase"):
                load_private_rsa(data, wrong)


# Made with openssl rsa -aes128 (and -aes256) -traditional: the encryption is that of ssh-keygen
# -m PEM (AES-128-CBC) and of Go's x509.EncryptPEMBlock (AES-256-CBC).
LEGACY = Path(__file__).parents[1] / "data" / "keys"


@pytest.mark.parametrize("cipher", ["AES-128-CBC", "AES-256-CBC"])
def test_the_old_encryption_of_pem_is_read(cipher: str) -> None:
    data = (LEGACY / f"{cipher.lower()}.pem").read_bytes()
    assert f"DEK-Info: {cipher},".encode() in data
    assert load_private_rsa(data, b"open sesame").key_size == 2048
    with pytest.raises(KeyInvalid, match="passphrase"):
        load_private_rsa(data, b"open window")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\x00",
        b"-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----\n",
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nMIIB\n-----END OPENSSH PRIVATE KEY-----\n",
        b"x" * 100_000,
        client.public_pem(client.rsa_key().public_key()),
        client.signing_key().private_bytes(
            client.PEM, serialization.PrivateFormat.OpenSSH, client.NO_ENCRYPTION
        ),
        client.private_pem(small_key()),
    ],
)
@pytest.mark.parametrize("passphrase", [b"", b"a pass phrase"])
def test_what_is_no_private_rsa_key_is_refused_and_not_shown(
    data: bytes, passphrase: bytes
) -> None:
    with pytest.raises(KeyInvalid) as refused:
        load_private_rsa(data, passphrase)
    assert "MIIB" not in refused.value.line()
    assert "a pass phrase" not in refused.value.line()
