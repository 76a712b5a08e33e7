"""Access to one Google Cloud project: a service account's file."""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcrunner.privatefile import read_private
from hpcrunner.queues.errors import OptionInvalid

EMULATOR = "PUBSUB_EMULATOR_HOST"
# Also those of companies' own domains: example.com:project.
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:-]{0,127}")


@dataclass(frozen=True, slots=True)
class GoogleAccess:
    """A project and the account that may use it.

    ``account`` is the content of its file; None with the emulator, which asks for nothing.
    """

    project: str
    account: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def server(self) -> str:
        """How sources and logs call the server that this leads to."""
        return f"pubsub {self.project}"


def access_of_file(path: Path, environ: Mapping[str, str] = os.environ) -> GoogleAccess:
    """A service account's JSON file, which must hold ``project_id``.

    Raises OptionInvalid or SecretRefused, without a credential in the text.
    """
    try:
        document = json.loads(read_private(path))
    except (ValueError, RecursionError):
        raise OptionInvalid("is no JSON", where=str(path)) from None
    project = document.get("project_id") if isinstance(document, dict) else None
    if not isinstance(project, str) or not _PROJECT.fullmatch(project):
        raise OptionInvalid(
            "holds no project_id",
            where=str(path),
            remedy="it takes the key file of a service account, as Google's console writes it",
        )
    if environ.get(EMULATOR):
        return GoogleAccess(project)
    if document.get("type") != "service_account":
        raise OptionInvalid(
            "is not the key file of a service account",
            where=str(path),
            remedy="make a key for one, with the roles Pub/Sub Subscriber and Viewer",
        )
    return GoogleAccess(project, document)


def require_pubsub() -> Any:
    """The module google.cloud.pubsub_v1. Raises OptionInvalid where it is not installed."""
    try:
        return importlib.import_module("google.cloud.pubsub_v1")
    except ImportError as error:
        raise OptionInvalid(
            f"Google Pub/Sub needs a library that is not here ({error.name})",
            where="--google-certs, GOOGLE_APPLICATION_CREDENTIALS",
            remedy="pip install 'hpcrunner[pubsub]'",
        ) from error


def subscriber(access: GoogleAccess) -> Any:
    """A client of the project's subscriptions, not connected yet, which threads may share.

    Raises OptionInvalid for a key that is none.
    """
    return _client(require_pubsub().SubscriberClient, access)


def publisher(access: GoogleAccess) -> Any:
    """A client that publishes to the project's topics, not connected yet.

    Raises OptionInvalid for a key that is none.
    """
    return _client(require_pubsub().PublisherClient, access)


def _client(kind_of_client: Any, access: GoogleAccess) -> Any:
    if access.account is None:
        return kind_of_client()
    from google.oauth2 import service_account

    kind: Any = service_account.Credentials
    try:
        credentials = kind.from_service_account_info(access.account)
    except ValueError:
        raise OptionInvalid(  # the library's own text may quote the key
            "the service account's file holds no usable key", where=access.server
        ) from None
    return kind_of_client(credentials=credentials)
