"""Where the single files of an attempt's metadata go. Pure."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from dataclasses import replace

from hpcrunner.request.location import Location
from hpcrunner.request.plan import PlannedArtifact

FOLDER = "metadata"  # at the root of the bucket


def beside(artifact: PlannedArtifact, document: str, name: str) -> Location:
    """``metadata/<name>`` at the root of an artifact's bucket.

    A file's path does not tell where its bucket begins: that is above the artifact's ``key`` in
    the request (``document``), else the folder that the artifact is in. What the gateway carries
    has a folder of its own.
    """
    if artifact.staged is not None:
        return Location("file", key=posixpath.join(artifact.staged.documents, name))
    location = artifact.location
    if location.scheme != "file":
        return replace(location, key=f"{FOLDER}/{name}")
    key = _key_of(document, artifact.tag)
    root = posixpath.dirname(location.key)
    if key and not key.startswith("/") and location.key.endswith("/" + posixpath.normpath(key)):
        root = location.key[: -len(posixpath.normpath(key)) - 1] or "/"
    return replace(location, key=posixpath.join(root, FOLDER, name))


def _key_of(document: str, tag: str) -> str:
    try:
        artifact: Mapping[str, object] = json.loads(document)["artifacts"][tag]
        key = artifact.get("key")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""
    return key if isinstance(key, str) else ""
