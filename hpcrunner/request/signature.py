"""Ed25519 signatures over sealed payloads, and OpenSSH's fingerprints of the keys.

Signed are the bytes of the ``payload`` text. A signature comes in base64, either as 64 bytes
or in SSH's wire form (RFC 8709 section 6: the strings ``ssh-ed25519`` and the 64 bytes, each
behind its length in four bytes, as RFC 4251 section 5 has strings).
"""

from __future__ import annotations

import base64
import hashlib

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)

from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.errors import KeyInvalid

ALGORITHM = "ssh-ed25519"
SIGNATURE_BYTES = 64
MAX_SIGNATURE = 4096  # characters
_MAX_KEY_LINE = 64 * 1024

_WHERE = "message.signature"


class SignatureRefused(HpcrunnerError):
    """A signature that is not there, not readable, or not of the key that must have made it."""

    exit_code = 65  # EX_DATAERR


def load_signing_key(data: bytes) -> Ed25519PublicKey:
    """The key of a public line ``ssh-ed25519 AAAA… [comment]``. Raises KeyInvalid."""
    line = data.strip()
    if len(data) <= _MAX_KEY_LINE and line.startswith(f"{ALGORITHM} ".encode()):
        try:
            key = load_ssh_public_key(line)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if isinstance(key, Ed25519PublicKey):
            return key
    raise KeyInvalid(
        f"not a public signing key; it is one line that begins with '{ALGORITHM} '",
        remedy="ssh-keygen -t ed25519 writes one into its .pub file",
    )


def fingerprint(key: Ed25519PublicKey | RSAPublicKey) -> str:
    """As ``ssh-keygen -l`` shows it: ``SHA256:`` and unpadded base64."""
    blob = base64.b64decode(key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1])
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii")
    return f"SHA256:{digest.rstrip('=')}"


def verify(payload: str, signature: str, key: Ed25519PublicKey) -> None:
    """Raises SignatureRefused unless ``key`` signed ``payload``."""
    raw = _raw(signature)
    try:
        key.verify(raw, payload.encode())
    except (InvalidSignature, UnicodeEncodeError):
        raise SignatureRefused(
            "not made by the key of this queue, or the payload was altered",
            where=_WHERE,
            remedy="sign with the key whose public half is in --request-signatures-dir",
        ) from None


def _raw(signature: str) -> bytes:
    if not signature:
        raise SignatureRefused("missing", where=_WHERE, remedy="a sealed message must be signed")
    try:
        if len(signature) > MAX_SIGNATURE:
            raise ValueError
        blob = base64.b64decode(signature, validate=True)
    except ValueError:
        raise SignatureRefused("not base64", where=_WHERE, remedy="send standard base64") from None
    raw = _from_ssh(blob)
    if raw is None and len(blob) == SIGNATURE_BYTES:
        raw = blob
    if raw is None:
        raise SignatureRefused(
            "not an Ed25519 signature",
            where=_WHERE,
            remedy=f"send its {SIGNATURE_BYTES} bytes, or SSH's form of them",
        )
    return raw


def _from_ssh(blob: bytes) -> bytes | None:
    """The signature of a blob in SSH's form, None where it is none. What follows is ignored."""
    algorithm, rest = _string(blob)
    raw, _ = _string(rest)
    if algorithm != ALGORITHM.encode() or raw is None or len(raw) != SIGNATURE_BYTES:
        return None
    return raw


def _string(data: bytes) -> tuple[bytes | None, bytes]:
    if len(data) < 4:
        return None, b""
    end = 4 + int.from_bytes(data[:4], "big")
    if end > len(data):
        return None, b""
    return data[4:end], data[end:]
