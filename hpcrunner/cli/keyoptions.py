"""The options that say where keys are; several commands have them."""

from __future__ import annotations

from typing import Annotated

from hpcrunner.cli.options import option

_PANEL = "Sealed messages"

EncryptDir = Annotated[
    str,
    option(
        "--encrypt-dir",
        "Folder of the private keys that requests are sealed for: encryption/ssh-privatekey, "
        "passphrase/ssh-passphrase.",
        metavar="FOLDER",
        rich_help_panel=_PANEL,
    ),
]
RequestSignaturesDir = Annotated[
    str,
    option(
        "--request-signatures-dir",
        "Folder of the senders' ssh-ed25519 public keys; a file's name is that of a queue, or "
        "how its name begins.",
        metavar="FOLDER",
        rich_help_panel=_PANEL,
    ),
]
ResponseSignaturesDir = Annotated[
    str,
    option(
        "--response-signatures-dir",
        "Folder of the RSA public keys that reports are sealed for, named as their response "
        "queues begin.",
        metavar="FOLDER",
        rich_help_panel=_PANEL,
    ),
]
ClearTextMessages = Annotated[
    bool | None,
    option(
        "--clear-text-messages/--no-clear-text-messages",
        "Whether messages that are not sealed are taken; default: where no keys for requests "
        "are configured. The site's clear_text has exceptions by queue.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
