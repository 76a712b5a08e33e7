"""One JSON value of a Firebase Realtime Database, by its REST interface.

https://firebase.google.com/docs/reference/rest/database: GET reads (``null`` where nothing is),
PUT replaces, PATCH changes the named members and no others. The address of a location is its
whole URL, with the token, if there is one, as ``auth`` in its query.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from hpcrunner.request.hosts import HostRule
from hpcrunner.request.location import Location
from hpcrunner.storage.contract import (
    ArtifactDenied,
    ArtifactNotFound,
    StorageError,
    StoreUnreachable,
)
from hpcrunner.storage.guard import web_opener

TIMEOUT = 30.0
_LARGEST = 64 << 20


def read(location: Location) -> Any:
    """The value, None where there is none. Raises StorageError."""
    return _ask(location, "GET", None)


def replace(location: Location, value: Mapping[str, Any]) -> None:
    """Make this the whole value. Raises StorageError."""
    _ask(location, "PUT", value)


def update(location: Location, members: Mapping[str, Any]) -> None:
    """Set these members and leave the others; None removes one. Raises StorageError."""
    _ask(location, "PATCH", members)


def _ask(location: Location, method: str, value: Mapping[str, Any] | None) -> Any:
    """One request. ``from None`` throughout: urllib's errors hold the URL with its token."""
    where = str(location)
    data = None if value is None else json.dumps(value).encode()
    try:
        if not location.endpoint.lower().startswith(("http://", "https://")):
            raise ValueError
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked above
            location.endpoint,
            data=data,
            method=method,
            headers={"Content-Type": "application/json; charset=UTF-8"},
        )
        with _opener(location.hosts).open(request, timeout=TIMEOUT) as answer:
            body = answer.read(_LARGEST)
    except urllib.error.HTTPError as error:
        error.close()
        raise _refusal(error.code, where) from None
    except ValueError:
        raise ArtifactNotFound(
            "not a web address", where=where, remedy="send a whole https URL as databaseURL"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise StoreUnreachable(
            f"no answer ({type(error).__name__})",
            where=where,
            remedy="is the database up, and reachable from here?",
        ) from None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise StorageError(
            "the answer is not JSON", where=where, remedy="does databaseURL lead to a database?"
        ) from None


def _refusal(status: int, where: str) -> StorageError:
    if status in (401, 403):
        return ArtifactDenied(
            f"denied ({status})",
            where=where,
            remedy="send a token as database.credentials.jwt.token, or open the database's rules",
        )
    if status == 429 or status >= 500:
        return StoreUnreachable(f"the database answered {status}", where=where, remedy="try later")
    return ArtifactNotFound(
        f"the database answered {status}", where=where, remedy="is databaseURL right?"
    )


@lru_cache(maxsize=8)
def _opener(rule: HostRule | None) -> urllib.request.OpenerDirector:
    return web_opener(rule)
