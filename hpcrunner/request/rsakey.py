"""RSA keys as files hold them: every form that ssh-keygen, openssl and StudioML's tools write."""

from __future__ import annotations

import re

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_pem_public_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from hpcrunner.request.errors import KeyInvalid

MAX_KEY_FILE = 64 * 1024  # bytes
LEAST_BITS = 2048
MOST_BITS = 16384

_SSH_PRIVATE = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_PEM_LABEL = re.compile(rb"-----BEGIN ([A-Z ]{1,40})-----")


def load_public_rsa(data: bytes) -> RSAPublicKey:
    """A public RSA key: PEM (``RSA PUBLIC KEY``, ``PUBLIC KEY``) or an OpenSSH ``ssh-rsa`` line.

    Raises KeyInvalid.
    """
    _bounded(data)
    text = data.strip()
    try:
        if text.startswith(b"ssh-rsa "):
            key: object = load_ssh_public_key(text)
        else:
            _is_pem(text, b"PUBLIC KEY")
            key = load_pem_public_key(text)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _not_a_key("a public RSA key", "ssh-keygen -e -m PEM writes one") from None
    if not isinstance(key, RSAPublicKey):
        raise _not_a_key("a public RSA key", "another kind of key cannot be sealed for")
    _sized(key.key_size)
    return key


def load_private_rsa(data: bytes, passphrase: bytes = b"") -> RSAPrivateKey:
    """A private RSA key: PKCS#1 (also with OpenSSL's old encryption), PKCS#8 or OpenSSH's form.

    ``passphrase`` is not used where the key has none. Raises KeyInvalid.
    """
    _bounded(data)
    text = data.strip()
    secrets = _passphrases(passphrase)
    for secret in secrets:
        try:
            key = _private(text, secret)
        except TypeError:
            # Either it is encrypted and no passphrase was given, or the other way round.
            if secret is not None:
                continue
            if len(secrets) == 1:
                raise KeyInvalid(
                    "the key has a passphrase and none is there",
                    remedy="write it to the passphrase file",
                ) from None
        except ValueError:
            # A wrong passphrase and a damaged key look the same.
            continue
        except UnsupportedAlgorithm:
            raise KeyInvalid(
                "an encryption or a kind of key that is not supported",
                remedy="write it again with ssh-keygen -p",
            ) from None
        else:
            if not isinstance(key, RSAPrivateKey):
                raise _not_a_key("a private RSA key", "requests are sealed for RSA keys only")
            _sized(key.key_size)
            return key
    if len(secrets) > 1:
        raise KeyInvalid(
            "the passphrase does not open it, or it is not a private RSA key",
            remedy="look at both files; the passphrase is the whole file's content",
        )
    raise _not_a_key("a private RSA key", "ssh-keygen -t rsa -b 4096 -m PEM writes one")


def _private(text: bytes, secret: bytes | None) -> object:
    if text.startswith(_SSH_PRIVATE):
        return load_ssh_private_key(text, secret)
    _is_pem(text, b"PRIVATE KEY")
    return load_pem_private_key(text, secret)


def _passphrases(passphrase: bytes) -> list[bytes | None]:
    """What to try: as the file has it, without the line end that editors add, and none."""
    given = [passphrase, passphrase.rstrip(b"\r\n")]
    return [*dict.fromkeys(p for p in given if p), None]


def _is_pem(text: bytes, kind: bytes) -> None:
    label = _PEM_LABEL.search(text)
    if label is None or not label[1].endswith(kind):
        raise ValueError


def _bounded(data: bytes) -> None:
    if len(data) > MAX_KEY_FILE:
        raise KeyInvalid(f"more than {MAX_KEY_FILE} bytes", remedy="a key file holds one key")


def _sized(bits: int) -> None:
    if not LEAST_BITS <= bits <= MOST_BITS:
        raise KeyInvalid(
            f"an RSA key of {bits} bits",
            remedy=f"use one of {LEAST_BITS} to {MOST_BITS} bits; 4096 are usual",
        )


def _not_a_key(kind: str, remedy: str) -> KeyInvalid:
    return KeyInvalid(f"not {kind}", remedy=remedy)
