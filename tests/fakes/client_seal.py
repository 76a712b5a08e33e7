"""What a StudioML client does to seal and sign, written from the format alone.

Nothing of hpcrunner is used, so that both sides cannot share a mistake.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nacl.secret
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import (
    RSAPrivateKey,
    RSAPublicKey,
    generate_private_key,
)

PEM = serialization.Encoding.PEM
PKCS1 = serialization.PrivateFormat.TraditionalOpenSSL
OPENSSH = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
NO_ENCRYPTION = serialization.NoEncryption()


def rsa_key(which: int = 0, bits: int = 2048) -> RSAPrivateKey:
    """One of the RSA keys of this run of the tests; making one takes a while."""
    return _rsa_key(which, bits)


@functools.cache
def _rsa_key(which: int, bits: int) -> RSAPrivateKey:
    return generate_private_key(public_exponent=65537, key_size=bits)


def signing_key(which: int = 0) -> Ed25519PrivateKey:
    return _signing_key(which)


@functools.cache
def _signing_key(which: int) -> Ed25519PrivateKey:
    # The same in every process: tests are named by what they are given.
    return Ed25519PrivateKey.from_private_bytes(bytes([which + 1]) * 32)


def private_pem(key: RSAPrivateKey) -> bytes:
    return key.private_bytes(PEM, PKCS1, NO_ENCRYPTION)


def public_pem(key: RSAPublicKey) -> bytes:
    return key.public_bytes(PEM, serialization.PublicFormat.PKCS1)


def public_line(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(*OPENSSH)


def fingerprint_of(key: Ed25519PrivateKey) -> str:
    blob = base64.b64decode(public_line(key).split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def oaep() -> padding.OAEP:
    return padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


def sealed(plaintext: bytes, recipient: RSAPublicKey) -> str:
    key = os.urandom(32)
    nonce = os.urandom(24)
    box = nacl.secret.SecretBox(key).encrypt(plaintext, nonce)
    assert box[:24] == nonce
    parts = recipient.encrypt(key, oaep()), bytes(box)
    return ",".join(base64.b64encode(part).decode() for part in parts)


def bare_signature(payload: str, key: Ed25519PrivateKey) -> bytes:
    return key.sign(payload.encode())


def ssh_signature(payload: str, key: Ed25519PrivateKey) -> bytes:
    """RFC 8709 section 6, in the strings of RFC 4251 section 5."""
    strings = b"ssh-ed25519", key.sign(payload.encode())
    return b"".join(struct.pack(">I", len(s)) + s for s in strings)


def envelope(
    request: bytes | Mapping[str, Any],
    recipient: RSAPublicKey,
    signer: Ed25519PrivateKey,
    *,
    ssh: bool = False,
    **changed: Any,
) -> dict[str, Any]:
    """The message of a request; ``changed`` members replace the header's, None leaves one out."""
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    payload = changed.pop("payload", None) or sealed(body, recipient)
    make = ssh_signature if ssh else bare_signature
    try:
        needed = json.loads(body)["experiment"]["resources_needed"]
    except (ValueError, KeyError, TypeError):
        needed = {}
    message = {
        "experiment": {"status": "waiting", "pythonver": "3.11"},
        "time_added": 1.8e9,
        "experiment_lifetime": "30m",
        "resources_needed": needed,
        "payload": payload,
        "signature": base64.b64encode(make(str(payload), signer)).decode(),
        "fingerprint": fingerprint_of(signer),
        **changed,
    }
    return {"message": {name: value for name, value in message.items() if value is not None}}


def write_keys(
    folder: Path, request_keys: Mapping[str, bytes], signers: Mapping[str, bytes]
) -> tuple[Path, Path]:
    """The two folders of a gateway that takes sealed messages."""
    encrypt, signing = folder / "message", folder / "signing"
    (encrypt / "encryption").mkdir(parents=True, exist_ok=True)
    signing.mkdir(exist_ok=True)
    for name, data in request_keys.items():
        path = encrypt / "encryption" / name
        path.touch(0o600)
        path.write_bytes(data)
    for name, data in signers.items():
        (signing / name).write_bytes(data)
    return encrypt, signing
