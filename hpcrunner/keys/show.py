"""What a keyring holds, for people: no secret among it."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from hpcrunner.keys.keyring import Keyring
from hpcrunner.request.signature import fingerprint

Key = RSAPrivateKey | RSAPublicKey | Ed25519PublicKey


def shown_keys(keyring: Keyring) -> list[dict[str, str]]:
    """For every file: what it is for, its name, kind and fingerprint, or why it is of no use."""
    rows: list[dict[str, str]] = []
    if keyring.requests is not None:
        rows += [_row("requests", *listed) for listed in keyring.requests.listed()]
    if keyring.signers is not None:
        rows += [_row("senders", *listed) for listed in keyring.signers.listed()]
    if keyring.reports is not None:
        rows += [_row("reports", *listed) for listed in keyring.reports.listed()]
    return rows


def _row(use: str, name: str, key: Key | None, trouble: str) -> dict[str, str]:
    row = {"use": use, "file": name, "kind": "", "fingerprint": "", "trouble": trouble}
    if key is None:
        return row
    kind = "ED25519" if isinstance(key, Ed25519PublicKey) else f"RSA {key.key_size}"
    public = key.public_key() if isinstance(key, RSAPrivateKey) else key
    return {**row, "kind": kind, "fingerprint": fingerprint(public)}
