"""All the keys of a gateway, by what they are for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpcrunner.keys.options import KeyOptions
from hpcrunner.queues.errors import OptionInvalid
from hpcrunner.queues.sources import expanded

if TYPE_CHECKING:  # cryptography is loaded where keys are configured, not before
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    from hpcrunner.keys.folder import KeyFolder
    from hpcrunner.keys.requestkeys import RequestKeys


@dataclass(frozen=True, slots=True)
class Keyring:
    """The configured folders of keys; None for what is not configured.

    ``requests`` open what clients send, ``signers`` tell who sent it, and ``reports`` (chosen by
    the name of the response queue) seal what goes back.
    """

    requests: RequestKeys | None = None
    signers: KeyFolder[Ed25519PublicKey] | None = None
    reports: KeyFolder[RSAPublicKey] | None = None

    def refresh(self) -> None:
        """Take up what changed in the folders, each looked at every ten seconds at most."""
        if self.requests is not None:
            self.requests.refresh()
        for folder in (self.signers, self.reports):
            if folder is not None:
                folder.refresh()


NO_KEYS = Keyring()


def keyring_from(options: KeyOptions, environ: Mapping[str, str] = os.environ) -> Keyring:
    """The keys of these options, read. Raises OptionInvalid where one half is missing.

    A folder that is not there yet is no error: it is looked at again and again.
    """
    requests = _folder(options.encrypt_dir, "--encrypt-dir", environ)
    signers = _folder(options.request_signatures_dir, "--request-signatures-dir", environ)
    reports = _folder(options.response_signatures_dir, "--response-signatures-dir", environ)
    if bool(requests) != bool(signers):
        raise OptionInvalid(
            "a sealed message needs a key to open it and one to know its sender by",
            where="--request-signatures-dir" if requests else "--encrypt-dir",
            remedy="give both folders",
        )
    if not (requests or reports):
        return NO_KEYS
    from hpcrunner.keys.folder import KeyFolder
    from hpcrunner.keys.requestkeys import RequestKeys
    from hpcrunner.request.rsakey import load_public_rsa
    from hpcrunner.request.signature import load_signing_key

    keyring = Keyring(
        RequestKeys(requests, environ=environ) if requests else None,
        KeyFolder(signers, load_signing_key, "--request-signatures-dir") if signers else None,
        KeyFolder(reports, load_public_rsa, "--response-signatures-dir") if reports else None,
    )
    keyring.refresh()
    return keyring


def request_keys(folder: str, environ: Mapping[str, str] = os.environ) -> Keyring:
    """Only what opens requests, for a look into one; no keys where ``folder`` is "".

    Raises OptionInvalid.
    """
    path = _folder(folder, "--encrypt-dir", environ)
    if path is None:
        return NO_KEYS
    from hpcrunner.keys.requestkeys import RequestKeys

    keyring = Keyring(RequestKeys(path, environ=environ))
    keyring.refresh()
    return keyring


def _folder(given: str, option: str, environ: Mapping[str, str]) -> Path | None:
    return Path(expanded(given, option, environ)).expanduser() if given else None
