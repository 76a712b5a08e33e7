"""Opening a sealed message: who sent it, what is in it, and whether its header told the truth.

The header stands outside the seal and is not signed. Runners and scalers read the resources in
it before anybody opens the message, so what is inside must ask for the same.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from hpcrunner.request.errors import RequestError
from hpcrunner.request.model import Request, Resources, SealedRequest
from hpcrunner.request.parse import parse_message
from hpcrunner.request.seal import unseal
from hpcrunner.request.signature import SignatureRefused, verify

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey


def open_envelope(
    sealed: SealedRequest, signer: Ed25519PublicKey, keys: list[RSAPrivateKey]
) -> tuple[Request, bytes]:
    """The request inside and its JSON, once the signature is seen to be ``signer``'s.

    Raises SignatureRefused, SealError, or RequestError for what is inside.
    """
    if not sealed.fingerprint:
        raise SignatureRefused(
            "missing", where="message.fingerprint", remedy="a sealed message must be signed"
        )
    verify(sealed.payload, sealed.signature, signer)
    clear = unseal(sealed.payload, keys)
    request = parse_message(clear)
    if isinstance(request, SealedRequest):
        raise RequestError(
            "a sealed message inside another", where="message.payload", remedy="seal it once"
        )
    _agree(sealed.resources, request.resources)
    return request, clear


def _agree(header: Resources, inner: Resources) -> None:
    names = [field.name for field in fields(Resources)]
    differing = [name for name in names if getattr(header, name) != getattr(inner, name)]
    if differing:
        raise RequestError(
            f"differs from the sealed request in {', '.join(differing)}",
            where="message.resources_needed",
            remedy="send the same resources inside and outside",
        )
