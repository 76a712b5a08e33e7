"""Artifacts in S3 and in what speaks its protocol (MinIO, Ceph, rclone, GCS interoperability).

boto3 is loaded by the first call: it takes a fifth of a second and hundreds of files, which most
jobs on a shared file system need not pay.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from hpcrunner.privatefile import SecretRefused, read_private
from hpcrunner.request.hosts import HostRule
from hpcrunner.request.location import Location, TlsFiles
from hpcrunner.request.model import AwsCredentials
from hpcrunner.storage.contract import (
    ArtifactDenied,
    ArtifactNotFound,
    Download,
    Look,
    StorageError,
    StoreUnreachable,
)
from hpcrunner.storage.guard import guard_s3, refused_in
from hpcrunner.storage.resume import Body, ResumedStream
from hpcrunner.storage.window import Window

CONNECT_TIMEOUT = 10  # seconds
READ_TIMEOUT = 60  # seconds without a byte
MOST_ATTEMPTS = 5
# S3-compatible servers of any age take one PUT of this size; AWS asks for parts from 100 MB on.
PARTS_FROM = 64 << 20
PART = 8 << 20
UPLOAD_THREADS = 4

# By their codes, since compatible servers do not agree on the status beside them.
_MISSING = frozenset({"NoSuchKey", "NoSuchBucket", "NoSuchVersion", "NotFound", "404"})
_DENIED = frozenset(
    {
        "AccessDenied",
        "AccountProblem",
        "AllAccessDisabled",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "Forbidden",
        "InvalidAccessKeyId",
        "InvalidObjectState",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "Unauthorized",
    }
)
_REMEDY = {
    "NoSuchBucket": "create the bucket, or correct its name in the request",
    "RequestTimeTooSkewed": "set this host's clock",
    "ExpiredToken": "submit again with a fresh session token",
    "AuthorizationHeaderMalformed": "name the bucket's region in the credentials",
}


class S3Store:
    """Objects of any S3 endpoint; clients are kept for the life of the process.

    ``credentials`` of a location: None takes boto3's default chain (environment, files, the
    instance's role), two empty keys mean anonymous access. What is public is read without keys
    where there are none, or where the store denies them. A custom endpoint is addressed by path,
    as servers without wildcard DNS need it.
    """

    @contextmanager
    def open(self, location: Location) -> Iterator[Download]:
        """Read an object. See Store.open."""
        failures = _failures()
        client, answer = _first_answer(location)
        etag = str(answer.get("ETag", ""))

        def rest(offset: int) -> Body:
            wanted = {"Range": f"bytes={offset}-", **({"IfMatch": etag} if etag else {})}
            with _mapped(location):
                again = client.get_object(Bucket=location.bucket, Key=location.key, **wanted)
            if offset and again["ResponseMetadata"]["HTTPStatusCode"] != 206:
                again["Body"].close()
                raise StorageError(
                    "the connection broke, and the server cannot send the rest alone",
                    where=str(location),
                    remedy="try again",
                )
            body: Body = again["Body"]
            return body

        size = int(answer.get("ContentLength", -1))
        stream = ResumedStream(
            answer["Body"], size, rest, where=str(location), broken=failures.broken
        )
        with stream:
            yield Download(stream, size, etag.strip('"'))  # type: ignore[arg-type]

    def look(self, location: Location) -> Look:
        """Ask about an object. See Looker.look."""
        with _mapped(location):
            answer = _client(location).head_object(Bucket=location.bucket, Key=location.key)
        return Look(int(answer.get("ContentLength", -1)), str(answer.get("ETag", "")).strip('"'))

    def put(self, location: Location, body: BinaryIO, size: int) -> None:
        """Write an object; large ones in parts, which are taken back on failure. See Store.put.

        ``body`` must be seekable.
        """
        _failures()
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(
            multipart_threshold=PARTS_FROM,
            multipart_chunksize=PART,
            max_concurrency=UPLOAD_THREADS,
            preferred_transfer_client="classic",
        )
        # Parts wait in memory, which on the node is the job's own.
        config.max_in_memory_upload_chunks = UPLOAD_THREADS
        with _mapped(location):
            _client(location).upload_fileobj(
                Window(body, size), location.bucket, location.key, Config=config
            )


class _NotWithThese(ArtifactDenied):
    """The store knows who asks and denies it, or nobody is named: anybody may still be let in."""


def _first_answer(location: Location) -> tuple[Any, Any]:
    """A client and its answer; as the Go runner did, also by asking as anybody."""
    try:
        return _get(location)
    except _NotWithThese as denied:
        try:
            return _get(replace(location, credentials=AwsCredentials()))
        except StorageError:
            raise denied from None


def _get(location: Location) -> tuple[Any, Any]:
    with _mapped(location):
        client = _client(location)
        return client, client.get_object(Bucket=location.bucket, Key=location.key)


class _Failures(NamedTuple):
    """What boto3 raises, by what it means."""

    answers: tuple[type[Exception], ...]
    no_credentials: tuple[type[Exception], ...]
    tls: tuple[type[Exception], ...]
    unreachable: tuple[type[Exception], ...]
    other: tuple[type[Exception], ...]
    broken: tuple[type[BaseException], ...]


_loading = threading.Lock()


@lru_cache(maxsize=1)
def _failures() -> _Failures:
    # Every call begins here. Python locks modules one by one, so a thread that comes while
    # another is inside of boto3/__init__.py may find it half made; this waits until it is whole.
    with _loading:
        import boto3.s3.transfer  # noqa: F401
        from boto3.exceptions import Boto3Error
        from botocore import exceptions as known
        from urllib3.exceptions import HTTPError

    return _Failures(
        answers=(known.ClientError,),
        no_credentials=(
            known.NoCredentialsError,
            known.PartialCredentialsError,
            known.CredentialRetrievalError,
            known.TokenRetrievalError,
            known.ProfileNotFound,
        ),
        tls=(known.SSLError,),
        unreachable=(known.HTTPClientError, known.ConnectionError, HTTPError, OSError),
        other=(known.BotoCoreError, Boto3Error),
        broken=(known.HTTPClientError, known.IncompleteReadError, HTTPError, OSError),
    )


@contextmanager
def _mapped(location: Location) -> Iterator[None]:
    """boto3's errors as ours.

    ``from None`` all through: the originals carry requests, whose addresses may be signed.
    """
    failures = _failures()
    where = str(location)
    try:
        yield
    except failures.answers as error:
        raise _refusal(error, where) from None
    except failures.no_credentials as error:
        raise _NotWithThese(
            f"no credentials in the request, and none found on this host ({type(error).__name__})",
            where=where,
            remedy="send credentials with the artifact or in config.storage",
        ) from None
    except failures.tls as error:
        raise StoreUnreachable(
            f"no TLS connection: {_tls_fault(error)}",
            where=where,
            remedy="see the site's keys s3.ca, s3.cert and s3.key, and the server's certificate",
        ) from None
    except failures.unreachable as error:
        if (refused := refused_in(error)) is not None:
            raise refused from None
        raise StoreUnreachable(
            f"no answer after {MOST_ATTEMPTS} tries ({type(error).__name__})",
            where=where,
            remedy="is the store up, and does this host reach it?",
        ) from None
    except failures.other as error:
        raise ArtifactNotFound(
            f"not an address that S3 has ({type(error).__name__})",
            where=where,
            remedy="check endpoint, region, bucket and key",
        ) from None


def _tls_fault(error: BaseException) -> str:
    """The reason that OpenSSL gives: botocore wraps urllib3 wraps ssl."""
    match = re.search(r"\[SSL[^\]]*\]? ?([^()'\"]{3,120})", str(error))
    return match[1].strip() if match else type(error).__name__


def _refusal(error: Any, where: str) -> StorageError:
    """The error for a server's answer, by its code, else by its status."""
    answer = error.response
    code = str(answer.get("Error", {}).get("Code", "")) or "no code"
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _MISSING or (status == 404 and code not in _DENIED):
        what = "no such bucket" if code == "NoSuchBucket" else "no such object"
        return ArtifactNotFound(
            what, where=where, remedy=_REMEDY.get(code, "was it uploaded, and under this key?")
        )
    if code in _DENIED or status in (401, 403):
        usual = "check the keys; stores say this of a missing object, too, where listing is denied"
        kind = _NotWithThese if code == "AccessDenied" else ArtifactDenied
        return kind(f"denied ({code})", where=where, remedy=_REMEDY.get(code, usual))
    if code == "PreconditionFailed" or status == 412:
        return StorageError(
            "the object was replaced while it was read", where=where, remedy="try again"
        )
    return StoreUnreachable(
        f"the store answered {status or '?'} ({code})", where=where, remedy="try again later"
    )


_clients: dict[tuple[str, str, AwsCredentials | None, TlsFiles | None, HostRule | None], Any] = {}
_making = threading.Lock()


def _client(location: Location) -> Any:
    credentials = location.credentials
    region = location.region or (credentials.region if credentials else "")
    known = (location.endpoint, region, credentials, location.tls, location.hosts)
    with _making:  # several artifacts of one store start at once
        if known not in _clients:
            _clients[known] = _new_client(location, region)
        return _clients[known]


def _new_client(location: Location, region: str) -> Any:
    from boto3.session import Session
    from botocore import UNSIGNED
    from botocore.config import Config

    options: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT,
        "read_timeout": READ_TIMEOUT,
        "retries": {"mode": "standard", "total_max_attempts": MOST_ATTEMPTS},
    }
    # botocore >= 1.36 adds checksums that older S3-compatible servers refuse; before that there
    # is neither the habit nor the option.
    for name in ("request_checksum_calculation", "response_checksum_validation"):
        if name in Config.OPTION_DEFAULTS:
            options[name] = "when_required"
    endpoint, credentials, tls = location.endpoint, location.credentials, location.tls
    if tls is not None:
        _check_files(tls, str(location))
        if tls.cert:
            options["client_cert"] = (tls.cert, tls.key)
    if endpoint:
        options["s3"] = {"addressing_style": "path"}
    keys: dict[str, str] = {}
    if credentials is not None:
        if not credentials.access_key and not credentials.secret_access_key:
            options["signature_version"] = UNSIGNED
        else:
            keys["aws_access_key_id"] = credentials.access_key
            keys["aws_secret_access_key"] = credentials.secret_access_key
            if credentials.session_token:
                keys["aws_session_token"] = credentials.session_token
    try:
        client = Session().client(
            "s3",
            endpoint_url=endpoint or None,
            # Compatible servers seldom care, but a signature needs one.
            region_name=region or ("us-east-1" if endpoint else None),
            config=Config(**options),
            verify=tls.ca if tls and tls.ca else None,
            **keys,
        )
        if location.hosts is not None:
            guard_s3(client, location.hosts)
        return client
    except ValueError:
        raise ArtifactNotFound(
            "not an endpoint", where=str(location), remedy="send a URL such as http://host:9000"
        ) from None


def _check_files(tls: TlsFiles, where: str) -> None:
    """Raise StorageError for a file that this host does not have, or a key open to others."""
    try:
        for name in (tls.ca, tls.cert):
            if name:
                Path(name).read_bytes()
        if tls.key:
            read_private(Path(tls.key))
    except OSError as error:
        raise StorageError(
            f"the site's {error.filename} cannot be read here ({error.strerror})",
            where=where,
            remedy="put the files of s3.ca, s3.cert and s3.key where every node sees them",
        ) from None
    except SecretRefused as error:
        raise StorageError(f"the site's s3.key: {error.line()}", where=where) from None
