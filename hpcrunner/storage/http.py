"""Artifacts at plain web addresses; read only."""

from __future__ import annotations

import base64
import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import IO, Any, BinaryIO, NoReturn

from hpcrunner import __version__
from hpcrunner.request.hosts import HostRule
from hpcrunner.request.location import Location
from hpcrunner.storage.contract import (
    ArtifactDenied,
    ArtifactNotFound,
    Download,
    Look,
    StorageError,
    StoreUnreachable,
)
from hpcrunner.storage.guard import web_opener
from hpcrunner.storage.resume import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    Body,
    Pause,
    ResumedStream,
)

TIMEOUT = 60.0  # seconds without a byte, connecting included
MOST_ATTEMPTS = 5
_WEB = ("http", "https")
_NO_HEAD = frozenset({405, 501})  # of servers, and of what programs make of them
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_BROKEN = (OSError, http.client.HTTPException)


class _NoHead(Exception):
    """The server knows no HEAD; what lies there may be as sound as anything."""


class _Body:
    """An answer whose bytes are given as they come: a read that waited for all that were asked
    for would hear of nothing else while a slow server sends them one by one.
    """

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self._answer = answer

    def read(self, amount: int, /) -> bytes:
        """Up to ``amount`` bytes; empty at the end."""
        return self._answer.read1(amount)

    def close(self) -> None:
        """Let go of the connection."""
        self._answer.close()


class HttpStore:
    """``http`` and ``https`` addresses.

    A user and password in the URL become basic auth, a location's token a bearer's.
    """

    def __init__(self, *, pause: Pause = time.sleep) -> None:
        self._pause = pause

    @contextmanager
    def open(self, location: Location) -> Iterator[Download]:
        """Read what the address gives, redirects followed. See Store.open."""
        answer = self._patiently(location, {})
        size = _length(answer)
        guard = _strong_etag(answer)

        def rest(offset: int) -> Body:
            again = self._patiently(
                location, {"Range": f"bytes={offset}-", "If-Range": guard} if guard else {}
            )
            if offset and again.status != 206:
                again.close()
                raise StorageError(
                    "the connection broke, and the server cannot send the rest alone",
                    where=str(location),
                    remedy="try again",
                )
            return _Body(again)

        stream = ResumedStream(
            _Body(answer), size, rest, where=str(location), broken=_BROKEN, pause=self._pause
        )
        with stream:
            yield Download(stream, size, guard.strip('"'))  # type: ignore[arg-type]

    def look(self, location: Location) -> Look:
        """Ask about an object. See Looker.look. A server without HEAD is asked for the object."""
        try:
            answer = self._patiently(location, {}, "HEAD")
        except _NoHead:
            answer = self._patiently(location, {})
        answer.close()
        return Look(_length(answer), _strong_etag(answer).strip('"'))

    def put(self, location: Location, body: BinaryIO, size: int) -> NoReturn:
        """Raises ArtifactDenied: web addresses are read only."""
        raise ArtifactDenied(
            "web addresses can only be read",
            where=str(location),
            remedy="keep mutable artifacts in an S3, Google or local store",
        )

    def _patiently(
        self, location: Location, headers: dict[str, str], method: str = "GET"
    ) -> http.client.HTTPResponse:
        for attempt in range(MOST_ATTEMPTS):
            try:
                return _ask(location, headers, method)
            except StoreUnreachable:
                if attempt + 1 == MOST_ATTEMPTS:
                    raise
                self._pause(min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE))
        raise AssertionError  # the last attempt returned or raised


def _ask(location: Location, headers: dict[str, str], method: str) -> http.client.HTTPResponse:
    """One request. ``from None`` throughout: urllib's errors hold the whole URL."""
    where = str(location)
    try:
        request = _request(location, headers)
        request.method = method
        opener = _opener(location.hosts)
        answer: http.client.HTTPResponse = opener.open(request, timeout=TIMEOUT)
        return answer
    except urllib.error.HTTPError as error:
        error.close()
        if method == "HEAD" and error.code in _NO_HEAD:
            raise _NoHead from None
        raise _refusal(error.code, where) from None
    except urllib.error.URLError as error:
        why = error.reason if isinstance(error.reason, str) else type(error.reason).__name__
        raise StoreUnreachable(
            f"no answer ({why})", where=where, remedy="is the server up, and reachable from here?"
        ) from None
    except (ValueError, http.client.InvalidURL):
        raise ArtifactNotFound(
            "not a web address", where=where, remedy="send a whole http or https URL"
        ) from None
    except _BROKEN as error:
        raise StoreUnreachable(
            f"no answer ({type(error).__name__})",
            where=where,
            remedy="is the server up, and reachable from here?",
        ) from None


def _request(location: Location, headers: dict[str, str]) -> urllib.request.Request:
    parts = urllib.parse.urlsplit(location.endpoint)
    if parts.scheme.lower() not in _WEB or not parts.hostname:
        raise ValueError
    host = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(  # noqa: S310 - the scheme was checked above
        urllib.parse.urlunsplit(parts._replace(netloc=host, fragment="")),
        headers={
            "User-Agent": f"hpcrunner/{__version__}",
            "Accept-Encoding": "identity",
            **headers,
        },
    )
    if parts.username is not None:
        user = urllib.parse.unquote(parts.username)
        password = urllib.parse.unquote(parts.password or "")
        words = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
        # Unredirected: another server must not get the password.
        request.add_unredirected_header("Authorization", f"Basic {words}")
    elif location.token:
        request.add_unredirected_header("Authorization", f"Bearer {location.token}")
    return request


class _WebRedirects(urllib.request.HTTPRedirectHandler):
    """urllib's redirects (ten at most) without ftp, and never from https down to http."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        to = urllib.parse.urlsplit(newurl)
        if to.scheme.lower() not in _WEB or (req.type == "https" and to.scheme.lower() == "http"):
            return None  # the redirect itself becomes the HTTPError
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None:
            request.method = req.get_method()
        if request is not None and (to.scheme, to.netloc) == (req.type, req.host):
            kept = req.get_header("Authorization")
            if kept:
                request.add_unredirected_header("Authorization", kept)
        return request


@lru_cache(maxsize=8)
def _opener(rule: HostRule | None) -> urllib.request.OpenerDirector:
    return web_opener(rule, _WebRedirects())


def _strong_etag(answer: Any) -> str:
    """The ETag where it promises equal bytes (RFC 9110, 8.8.1), else ""."""
    etag: str = answer.headers.get("ETag", "")
    return "" if etag.startswith("W/") else etag


def _length(answer: Any) -> int:
    text = answer.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else -1


def _refusal(status: int, where: str) -> StorageError:
    if status in (401, 403, 407):
        return ArtifactDenied(
            f"denied ({status})", where=where, remedy="does the address need a password or a token?"
        )
    if status in _TRANSIENT:
        return StoreUnreachable(
            f"the server answered {status}", where=where, remedy="try again later"
        )
    if 300 <= status < 400:
        return ArtifactNotFound(
            f"redirected ({status}) too often, or to no web address",
            where=where,
            remedy="send the address that it leads to",
        )
    return ArtifactNotFound(
        f"the server answered {status}", where=where, remedy="is the address right?"
    )
