"""Which S3 server a host or an endpoint URL means."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from hpcrunner.request.errors import RequestError, shown

_AWS_HOST = re.compile(
    r"s3(?:[.-](?:dualstack\.)?([a-z0-9-]+))?\.amazonaws\.com(?:\.cn)?(?::(?:80|443))?"
)
_AWS_ANY = re.compile(r"[a-z0-9.-]+\.amazonaws\.com(?:\.cn)?(?::[0-9]+)?")
_GOOGLE = "storage.googleapis.com"
_REGION = re.compile(r"[a-z]{2,}(?:-[a-z]+)+-[0-9]+")
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


class S3Endpoint(NamedTuple):
    """``url`` is empty for AWS itself; ``region`` is empty where the address says none."""

    url: str
    region: str


def endpoint_of_url(url: str, *, where: str, secure: bool = False) -> S3Endpoint:
    """The server of a client's ``endpoint``: a URL, a bare host, or "" for AWS.

    A bare host is http, or https where ``secure``. Raises RequestError at ``where``.
    """
    if not url:
        return S3Endpoint("", "")
    split = _split(url if "://" in url else f"{_scheme(secure)}://{url}")
    if split is None or split.scheme not in ("http", "https") or not _HOST.fullmatch(split.netloc):
        raise RequestError(
            f"{shown(url)} is no endpoint",
            where=where,
            remedy="send http://host:port or https://host:port",
        )
    known = _known(split.netloc)
    return known or S3Endpoint(f"{split.scheme}://{split.netloc}{split.path.rstrip('/')}", "")


def endpoint_of_host(host: str, *, where: str, secure: bool = False) -> S3Endpoint:
    """The server of ``s3://host/…`` that no endpoint URL names.

    It is http, save for AWS's and Google's own hosts and where ``secure``. Raises RequestError at
    ``where``.
    """
    if not _HOST.fullmatch(host):
        raise RequestError(
            f"{shown(host)} is no host" if host else "no host",
            where=where,
            remedy="use s3://host:port/bucket/key",
        )
    return _known(host) or S3Endpoint(f"{_scheme(secure)}://{host}", "")


def same_server(one: str, other: str) -> bool:
    """Whether two endpoints (URLs or hosts) mean one server."""
    return _authority(one) == _authority(other)


def _split(url: str) -> SplitResult | None:
    """``urlsplit``, None for what it refuses (an IPv6 address that is none)."""
    try:
        return urlsplit(url)
    except ValueError:
        return None


def google_endpoint() -> S3Endpoint:
    """Google Cloud Storage as S3 (its XML API with HMAC keys)."""
    return S3Endpoint(f"https://{_GOOGLE}", "")


def is_own_server(endpoint: S3Endpoint) -> bool:
    """Whether the address is https, and neither AWS's nor Google's."""
    host = endpoint.url.removeprefix("https://")
    return host != endpoint.url and _known(host) is None


def _scheme(secure: bool) -> str:
    return "https" if secure else "http"


def _known(host: str) -> S3Endpoint | None:
    """AWS by its own hosts, whose address the S3 client finds from the region; and Google."""
    host = host.lower()
    if host.removesuffix(":443") == _GOOGLE:
        return google_endpoint()
    match = _AWS_HOST.fullmatch(host)
    if match:
        region = match[1] or ""
        return S3Endpoint("", region if _REGION.fullmatch(region) else "")
    return S3Endpoint(f"https://{host}", "") if _AWS_ANY.fullmatch(host) else None


def _authority(endpoint: str) -> str:
    scheme, mark, rest = endpoint.rpartition("://")
    host = rest.partition("/")[0].lower()
    port = {"http": ":80", "https": ":443"}.get(scheme.lower(), "") if mark else ""
    return host.removesuffix(port) if port else host
