"""A folder's name for an experiment."""

from __future__ import annotations

import hashlib
import re

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_UNSAFE_RUN = re.compile(r"[^A-Za-z0-9_.-]+")
_PREFIX = 64
_DIGEST = 12


def experiment_name(key: str) -> str:
    """The experiment's key as a folder's name and as STUDIOML_EXPERIMENT.

    The key itself where it is safe (real clients' keys are), else a readable part of it and
    12 hex digits of its SHA-256. Different keys give different names, save for a key that was
    made to look like another's name: never the only guard between two experiments' files.
    """
    if _SAFE.fullmatch(key):
        return key
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
    prefix = _UNSAFE_RUN.sub("_", key)[:_PREFIX].lstrip(".-") or "experiment"
    return f"{prefix}-{digest}"
