"""Where the client puts an experiment's things in a store; also how a local store is laid out."""

from __future__ import annotations

import re
from collections.abc import Callable

# The client's names for the buckets of a local store.
ARTIFACTS_BUCKET = "storage"
RECORDS_BUCKET = "studioml-meta"

BLOBS = "blobstore"
EXPERIMENTS = "experiments"
KEY = re.compile(rb"\d{1,15}_[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SHA256 = re.compile(rb"[0-9a-f]{64}")


def workspace_key(sha256: str) -> str:
    """The key of an immutable archive of that SHA-256 (hex): equal content is stored once."""
    return f"{BLOBS}/{sha256}.tar"


def artifact_key(experiment: str, tag: str) -> str:
    """The key of an experiment's mutable artifact."""
    return f"{record_key(experiment)}/{tag}.tar"


def record_key(experiment: str) -> str:
    """The key of an experiment's database record."""
    return f"{EXPERIMENTS}/{experiment}"


def new_key(clock: Callable[[], float], new_uuid: Callable[[], object]) -> str:
    """A key as the client makes it: epoch seconds and a UUID. ``KEY`` is its form."""
    return f"{int(clock())}_{new_uuid()}"
