"""StudioML's hybrid seal: a text only the holder of an RSA key can read.

``base64(RSA-OAEP(key)),base64(nonce + box)``: 32 random bytes are the key of a NaCl secretbox
(XSalsa20-Poly1305), whose 24-byte nonce stands before it. OAEP with SHA-256 for both its hash
and its MGF1 (RFC 8017 section 7.1), and no label. Standard base64 with padding (RFC 4648
section 4). Requests and reports travel in it. Imports C libraries: not for the job side.
"""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox
from nacl.utils import random

from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.decode import MAX_MESSAGE_BYTES

MAX_SEALED = 2 * MAX_MESSAGE_BYTES  # characters
_MAX_SEALED_KEY = 4096  # characters: an RSA key of 16384 bits makes 2732

_REMEDY = "seal it as StudioML's client does"


class SealError(HpcrunnerError):
    """A text that is not sealed, or not for this key. Never holds any of what is inside."""

    exit_code = 65  # EX_DATAERR


class NotForThisKey(SealError):
    """A well-formed seal that this key does not open: made for another, or altered since."""


def seal(plaintext: bytes, recipient: RSAPublicKey) -> str:
    """Seal ``plaintext`` so that only the holder of ``recipient``'s private key can read it."""
    key = random(SecretBox.KEY_SIZE)
    sealed_key = recipient.encrypt(key, _oaep())
    box = bytes(SecretBox(key).encrypt(plaintext))
    return f"{_encoded(sealed_key)},{_encoded(box)}"


def unseal(payload: str, keys: list[RSAPrivateKey]) -> bytes:
    """What was sealed for one of ``keys``, tried in turn: a seal does not say which it is for.

    Raises NotForThisKey, or SealError for what is no seal.
    """
    sealed_key, box = _parts(payload)
    for key in keys:
        if len(sealed_key) != (key.key_size + 7) // 8:
            continue
        try:
            secret = key.decrypt(sealed_key, _oaep())
            return SecretBox(secret).decrypt(box)
        except (ValueError, TypeError, CryptoError):
            continue  # which of the two failed is nobody's business
    raise NotForThisKey("it does not open: sealed for another key, or altered since", where="seal")


def _parts(payload: str) -> tuple[bytes, bytes]:
    if len(payload) > MAX_SEALED:
        raise SealError(f"{len(payload)} characters", where="seal", remedy="send a smaller one")
    commas = payload.count(",")
    if commas != 1:
        raise SealError(f"{commas} commas where one belongs", where="seal", remedy=_REMEDY)
    first, _, second = payload.partition(",")
    if len(first) > _MAX_SEALED_KEY:
        raise SealError("the sealed key is too long", where="seal", remedy=_REMEDY)
    sealed_key, box = _decoded(first), _decoded(second)
    if not sealed_key or len(box) < SecretBox.NONCE_SIZE + SecretBox.MACBYTES:
        raise SealError("a part of it is missing", where="seal", remedy=_REMEDY)
    return sealed_key, box


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise SealError("not base64", where="seal", remedy=_REMEDY) from None


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _oaep() -> padding.OAEP:
    return padding.OAEP(
        mgf=padding.MGF1(algorithm=hashes.SHA256()), algorithm=hashes.SHA256(), label=None
    )
