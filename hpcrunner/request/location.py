"""Where an artifact's bytes live: one resolved address per artifact, credentials included."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from hpcrunner.request.hosts import HostRule
from hpcrunner.request.model import AwsCredentials

_PROMISE = re.compile(r"(?:.*/)?blobstore/([0-9a-f]{64})\.tar[^/]*")
Scheme = Literal["s3", "gs", "file", "http", "firebase"]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files for servers of one's own; "" for none. ``cert`` and ``key`` go together."""

    ca: str = ""
    cert: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Location:
    """A resolved address.

    ``s3``: ``endpoint`` is a URL (``http://127.0.0.1:9000``; empty for AWS itself), ``bucket``
    and ``key`` name the object. ``gs``: ``bucket`` and ``key``. ``file``: ``key`` is an absolute
    path. ``http``: ``endpoint`` is the whole URL (read only); ``firebase``: the same, of one
    record in a database. ``credentials`` None means that nothing in the request names any: the
    store uses its default chain. ``token`` is for a web server that wants one; ``tls`` for an S3
    server that is not known to the system's authorities. ``hosts`` is the rule by which connections
    are made, None for any.
    """

    scheme: Scheme
    key: str
    bucket: str = ""
    endpoint: str = ""
    region: str = ""
    credentials: AwsCredentials | None = None
    token: str = field(default="", repr=False)
    tls: TlsFiles | None = None
    hosts: HostRule | None = None

    def __repr__(self) -> str:
        return f"Location({str(self)!r})"  # an endpoint may be a signed URL

    def __str__(self) -> str:
        """The address for people and logs: no credentials, no URL user part, no query."""
        if self.scheme == "file":
            return f"file://{self.key}"
        if self.scheme in ("http", "firebase"):
            base = self.endpoint.split("?", 1)[0]
            head, _, rest = base.partition("://")
            return f"{head}://{rest.rpartition('@')[2]}" if rest else base
        host = self.endpoint.partition("://")[2].rpartition("@")[2]
        return f"{self.scheme}://{'/'.join(p for p in (host, self.bucket, self.key) if p)}"


def promised(location: Location) -> str:
    """The SHA-256 (hex) that the client's key says its content has, or ""."""
    match = _PROMISE.fullmatch(location.key)
    return match[1] if match else ""
