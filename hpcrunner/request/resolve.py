"""Where a request's artifacts and its database record live.

Local paths are taken as the message has them: they are read and written with the rights of the
user whose jobs these are, which the payload has anyway. A site that runs requests of people
whom that user does not trust must not run them under that user at all. What is refused here is
a path that leaves the store it claims to be in.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from hpcrunner.request.errors import RequestError, shown
from hpcrunner.request.hosts import HostRule
from hpcrunner.request.location import Location, TlsFiles
from hpcrunner.request.model import (
    Artifact,
    AwsCredentials,
    Request,
    StoreConfig,
    WebCredentials,
)
from hpcrunner.request.s3_endpoint import (
    S3Endpoint,
    endpoint_of_host,
    endpoint_of_url,
    google_endpoint,
    is_own_server,
    same_server,
)
from hpcrunner.request.stores import CONTAINER, FIREBASE, checked_region

SUPPORTED = "s3://host/bucket/key, gs://bucket/key, file:///path, http(s)://…"
IMAGE_SCHEMES = frozenset({"shub", "docker", "dockerhub", "library", "oras"})
# What the client's local store and database fall back to.
LOCAL_ENDPOINT, LOCAL_BUCKET, LOCAL_DATABASE = "~", "storage", "studioml-meta"

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):(.*)", re.IGNORECASE)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_ENV_NAMES = (
    ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    ("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"),
)
_GCS_TYPES = frozenset({"gs", "gcs", "gcloud"})


@dataclass(frozen=True, slots=True)
class StoreRules:
    """What a site says about its requests' stores.

    ``allow_env_secrets``: whether the keys in ``config.env`` may be used (the Go runner's option
    of that name). ``~`` of a local store stands for ``home``, by default the home folder of the
    user that asks. ``tls`` is for S3 servers other than AWS's and Google's own; with it, a
    server of which the message does not say whether it is http or https is https. ``hosts`` is for
    connections of the gateway itself. With ``lends`` False, what the message brings no credentials
    for is asked for without any.
    """

    allow_env_secrets: bool = True
    home: str | None = None
    tls: TlsFiles | None = None
    hosts: HostRule | None = None
    lends: bool = True


USUAL = StoreRules()


def resolve_artifact(
    request: Request, artifact: Artifact, rules: StoreRules = USUAL
) -> Location | None:
    """The artifact's address with the credentials to use there.

    None where it names no address at all, and for ``_singularity`` images of a registry.
    Explicit ``bucket`` and ``key`` win over those in ``qualified``. Credentials are the
    artifact's own, else those of ``config.storage``, else ``AWS_ACCESS_KEY_ID`` and
    ``AWS_SECRET_ACCESS_KEY`` of ``config.env``, if the rules allow it: clients of 2018 know no
    other place. A ``gs://`` artifact with keys of its own (Google's HMAC keys) is read as S3.
    Raises RequestError.
    """
    return under(_address(request, artifact, rules), rules)


def _address(request: Request, artifact: Artifact, rules: StoreRules) -> Location | None:
    where = f"experiment.artifacts.{artifact.tag}"
    address = artifact.url or artifact.qualified
    if not address:
        return _in_storage(request, artifact, where, rules)
    split = _SCHEME.fullmatch(address)
    scheme = split[1].lower() if split else ""
    rest = split[2] if split else ""
    if scheme == "s3":
        return _s3(request, artifact, rest, where, rules)
    if scheme == "gs":
        host, path = _host_and_path(rest)
        own = artifact.credentials
        return _gs(artifact.bucket or host, artifact.key or path, where, own)
    if scheme == "file":
        return _file(request, artifact, rest, where, rules)
    if scheme in ("http", "https"):
        return _http(artifact, address, where)
    if scheme in IMAGE_SCHEMES and artifact.tag == CONTAINER:
        return None
    raise RequestError(
        f"no store is known by the address {shown(address.partition(':')[0])}",
        where=where,
        remedy=f"use {SUPPORTED}",
    )


def resolve_record(request: Request, rules: StoreRules = USUAL) -> Location | None:
    """The client's database record of the experiment, None where it has none we can write.

    ``experiments/<key>`` in the bucket of an ``s3`` database, with the database's credentials,
    those of a storage at the same endpoint, or those of ``config.env``; below the folder of a
    ``local`` one; or in a ``firebase`` one. Raises RequestError.
    """
    return under(_record(request, rules), rules)


def _record(request: Request, rules: StoreRules) -> Location | None:
    database = request.database
    if database is None or database.type not in ("s3", "local", FIREBASE):
        return None
    if _climbs(request.key):
        raise RequestError(
            "climbs out of the database", where="experiment.key", remedy="send a key without .."
        )
    key = f"experiments/{request.key}"
    where = "config.database"
    if database.type == FIREBASE:
        return _in_firebase(database, key, f"{where}.databaseURL")
    if database.type == "local":
        return _in_folder(database, database.bucket or LOCAL_DATABASE, key, where, rules)
    if not database.bucket:
        return None
    endpoint = _endpoint(database, where, rules)
    storage = request.storage
    shared = (
        storage.credentials
        if storage and storage.type == "s3" and same_server(storage.endpoint, database.endpoint)
        else None
    )
    credentials = database.credentials or shared or _env_credentials(request, rules)
    region = _region(request, endpoint, credentials, database)
    return _in_s3(database.bucket, key, where, endpoint, region, credentials, rules)


def under(location: Location | None, rules: StoreRules) -> Location | None:
    """The address with what the rules say of connections and credentials."""
    if location is None or location.scheme == "file":
        return location
    if location.credentials is None and not rules.lends:
        location = replace(location, credentials=AwsCredentials())  # as anybody
    return replace(location, hosts=rules.hosts)


def _in_firebase(database: StoreConfig, key: str, where: str) -> Location | None:
    """The REST address of a record, with the token in its query as Firebase wants it."""
    if not database.endpoint:
        return None
    try:
        split = urlsplit(database.endpoint)
        sound = split.scheme in ("http", "https") and split.hostname and split.port != 0
    except ValueError:  # a port or an IPv6 address that is none
        sound = False
    if not sound:
        raise RequestError("no web address", where=where, remedy="send https://NAME.firebaseio.com")
    path = f"{split.path.rstrip('/')}/{quote(key)}.json"
    query = urlencode({"auth": database.token} if database.token else {})
    return Location("firebase", key, endpoint=urlunsplit(split._replace(path=path, query=query)))


def _in_storage(
    request: Request, artifact: Artifact, where: str, rules: StoreRules
) -> Location | None:
    """An artifact with a key but no URI: clients mean the key in their own storage."""
    if not artifact.key:
        return None
    storage = request.storage
    if storage and storage.type == "s3":
        endpoint = _endpoint(storage, "config.storage", rules)
        credentials = _credentials(request, artifact, rules)
        region = _region(request, endpoint, credentials, storage)
        bucket = artifact.bucket or storage.bucket
        return _in_s3(bucket, artifact.key, where, endpoint, region, credentials, rules)
    if storage and storage.type in _GCS_TYPES:
        own = artifact.credentials or storage.credentials
        return _gs(artifact.bucket or storage.bucket, artifact.key, where, own)
    if storage and storage.type == "local":
        return _in_local_storage(storage, artifact, where, rules)
    raise RequestError(
        "a key without an address", where=f"{where}.qualified", remedy=f"use {SUPPORTED}"
    )


def _s3(request: Request, artifact: Artifact, rest: str, where: str, rules: StoreRules) -> Location:
    host, path = _host_and_path(rest)
    storage = request.storage if request.storage and request.storage.type == "s3" else None
    where_address = f"{where}.qualified"
    if storage and same_server(storage.endpoint, host):
        # Only config.storage knows whether it is https, and of a path before the bucket.
        endpoint = _endpoint(storage, "config.storage", rules)
    elif host and not re.search(r"[.:]|^localhost$", host):
        # A single word without a port is no server but a bucket, as the AWS tools write it.
        path = f"{host}/{path}"
        endpoint = _endpoint(storage, "config.storage", rules)
    else:
        secure = rules.tls is not None
        endpoint = endpoint_of_host(host, where=where_address, secure=secure)
    in_path_bucket, _, in_path_key = path.partition("/")
    credentials = _credentials(request, artifact, rules)
    return _in_s3(
        artifact.bucket or in_path_bucket,
        artifact.key or in_path_key.lstrip("/"),
        where,
        endpoint,
        _region(request, endpoint, credentials, storage),
        credentials,
        rules,
    )


def _endpoint(store: StoreConfig | None, where: str, rules: StoreRules) -> S3Endpoint:
    url = store.endpoint if store else ""
    return endpoint_of_url(url, where=f"{where}.endpoint", secure=rules.tls is not None)


def _in_s3(
    bucket: str,
    key: str,
    where: str,
    endpoint: S3Endpoint,
    region: str,
    credentials: AwsCredentials | None,
    rules: StoreRules,
) -> Location:
    _check_object(bucket, key, where)
    tls = rules.tls if is_own_server(endpoint) else None
    return Location("s3", key, bucket, endpoint.url, region, credentials, tls=tls)


def _gs(bucket: str, key: str, where: str, credentials: AwsCredentials | None) -> Location:
    """An object of Google's, by S3's protocol where there are keys for that."""
    _check_object(bucket, key, where)
    if credentials is None or not credentials.access_key:
        return Location("gs", key, bucket, credentials=credentials)
    return Location("s3", key, bucket, google_endpoint().url, credentials.region, credentials)


def _check_object(bucket: str, key: str, where: str) -> None:
    if not _BUCKET.fullmatch(bucket):
        raise RequestError(
            f"{shown(bucket)} is no bucket" if bucket else "no bucket",
            where=f"{where}.bucket",
            remedy="name the bucket: letters, digits and . _ - only",
        )
    if not key:
        raise RequestError("no key", where=f"{where}.key", remedy="name the object in the bucket")


def _file(
    request: Request, artifact: Artifact, rest: str, where: str, rules: StoreRules
) -> Location:
    """A local file.

    The client writes ``file:/`` + an absolute path, so that its first folder looks like a
    host: its own storage is named by ``config.storage`` and the key instead. The Go runner
    reads an absolute path in ``key``.
    """
    storage = request.storage
    if artifact.key and not artifact.key.startswith("/"):
        if storage and storage.type == "local":
            return _in_local_storage(storage, artifact, where, rules)
    elif artifact.key:
        return _file_location(artifact.key, f"{where}.key")
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        rest = f"/{path}" if host in ("", "localhost") and slash else f"/{host}/{path}"
    if not rest.startswith("/") or not rest.strip("/"):
        raise RequestError(
            "no absolute path", where=f"{where}.qualified", remedy="use file:///path/of/the/file"
        )
    return _file_location(rest, f"{where}.qualified")


def _in_local_storage(
    storage: StoreConfig, artifact: Artifact, where: str, rules: StoreRules
) -> Location:
    if artifact.key.startswith("/") or _climbs(artifact.key):
        raise RequestError(
            "leaves the store's folder",
            where=f"{where}.key",
            remedy="send a relative path without ..",
        )
    bucket = artifact.bucket or storage.bucket or LOCAL_BUCKET
    return _in_folder(storage, bucket, artifact.key, "config.storage", rules)


def _in_folder(
    store: StoreConfig, bucket: str, key: str, where: str, rules: StoreRules
) -> Location:
    """``<endpoint>/<bucket>/<key>`` of a local store."""
    root = store.endpoint or LOCAL_ENDPOINT
    if root == "~" or root.startswith("~/"):
        root = (rules.home or str(Path.home())) + root[1:]
    if not root.startswith("/"):
        raise RequestError(
            f"{shown(store.endpoint)} is no absolute folder",
            where=f"{where}.endpoint",
            remedy="a local store needs a folder that every node sees, from / or ~/ on",
        )
    if bucket.startswith("/") or _climbs(bucket):
        raise RequestError(
            "leaves the store's folder", where=f"{where}.bucket", remedy="name a folder inside it"
        )
    return _file_location(f"{root}/{bucket}/{key}", f"{where}.endpoint")


def _file_location(path: str, where: str) -> Location:
    if _climbs(path):
        raise RequestError("holds ..", where=where, remedy="send the path that is meant")
    return Location(scheme="file", key="/" + posixpath.normpath(path).lstrip("/"))


def _http(artifact: Artifact, url: str, where: str) -> Location:
    member = f"{where}.{'url' if artifact.url else 'qualified'}"
    if artifact.mutable:
        raise RequestError(
            "a mutable artifact at an http address, which can only be read",
            where=member,
            remedy="keep mutable artifacts in an S3, Google or local store",
        )
    try:
        split = urlsplit(url)
        server = None if split.port == 0 else split.hostname
    except ValueError:  # a port or an IPv6 address that is none
        server = None
    if not server or " " in url:
        raise RequestError("no such address", where=member, remedy="send a whole URL")
    name = split.path.rpartition("/")[2]
    # The job side names the file after the key's last part.
    key = artifact.tag if name in ("", ".", "..") else split.path.lstrip("/")
    web = artifact.web or WebCredentials()
    if (web.user or web.password) and "@" not in split.netloc:
        userinfo = f"{quote(web.user, safe='')}:{quote(web.password, safe='')}"
        url = urlunsplit(split._replace(netloc=f"{userinfo}@{split.netloc}"))
    return Location(scheme="http", key=key, endpoint=url, token=web.token)


def _credentials(request: Request, artifact: Artifact, rules: StoreRules) -> AwsCredentials | None:
    storage = request.storage.credentials if request.storage else None
    return artifact.credentials or storage or _env_credentials(request, rules)


def _env_credentials(request: Request, rules: StoreRules) -> AwsCredentials | None:
    environment = dict(request.environment) if rules.allow_env_secrets else {}
    for access_name, secret_name in _ENV_NAMES:
        access, secret = environment.get(access_name, ""), environment.get(secret_name, "")
        if access and secret:
            return AwsCredentials(access, secret, environment.get("AWS_SESSION_TOKEN", ""))
    return None


def _region(
    request: Request,
    endpoint: S3Endpoint,
    credentials: AwsCredentials | None,
    store: StoreConfig | None,
) -> str:
    """The host's own region, else the nearest that the message names; "" is the store's default."""
    named = (
        endpoint.region
        or (credentials.region if credentials else "")
        or (store.region if store else "")
    )
    if named:
        return named
    region = dict(request.environment).get("AWS_DEFAULT_REGION", "")
    return checked_region(region, where="config.env.AWS_DEFAULT_REGION")


def _host_and_path(rest: str) -> tuple[str, str]:
    """``//host/path`` → host and path, user part dropped, extra slashes tolerated."""
    host, _, path = rest.removeprefix("//").partition("/")
    return host.rpartition("@")[2], path.lstrip("/")


def _climbs(path: str) -> bool:
    return ".." in path.split("/")
