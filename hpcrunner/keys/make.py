"""Making a key pair that requests are sealed for, in the folder that a gateway reads."""

from __future__ import annotations

import re
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from hpcrunner.keys.requestkeys import KEY_FILE, KEY_FOLDER
from hpcrunner.request.errors import KeyInvalid
from hpcrunner.sync import sync_folder, write_synced

PUBLIC_FILE = "ssh-publickey"
BITS = 4096


def make_request_key(folder: Path, name: str = "") -> tuple[Path, Path]:
    """Make a pair of RSA keys; returns the paths of the private and the public half.

    ``name`` tells several keys of a folder apart. Both are PEM of PKCS#1, the private one
    without a passphrase and only its owner's to read. Raises KeyInvalid where there is such a
    key already, or it cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{0,64}", name):
        raise KeyInvalid(
            f"{name!r} is no name for a key", remedy="use letters, digits, - and _ only"
        )
    ending = f"-{name}" if name else ""
    place = folder / KEY_FOLDER
    private, public = place / f"{KEY_FILE}{ending}", place / f"{PUBLIC_FILE}{ending}"
    key = generate_private_key(public_exponent=65537, key_size=BITS)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_synced(private, pem, 0o600)
        write_synced(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1), 0o644)
        sync_folder(place)
    except FileExistsError as error:
        raise KeyInvalid(
            "is there already", where=str(error.filename), remedy="give the new key a --name"
        ) from None
    except OSError as error:
        raise KeyInvalid(str(error.strerror), where=str(place)) from error
    return private, public
