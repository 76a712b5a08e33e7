"""Artifacts in Google Cloud Storage, through the ``gcs`` extra."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, BinaryIO

from hpcrunner.request.location import Location
from hpcrunner.storage.contract import (
    ArtifactDenied,
    ArtifactNotFound,
    Download,
    Look,
    StorageError,
    StoreUnreachable,
)
from hpcrunner.storage.guard import check_name
from hpcrunner.storage.window import Window

TIMEOUT = 60.0  # seconds, of one request
_HOST = "storage.googleapis.com"
CHUNK = 16 << 20  # read at once, in memory


class GcsMissing(StorageError):
    """google-cloud-storage is not installed."""


class GcsStore:
    """``gs://`` objects with Google's default credentials (ADC).

    Two empty keys in a location ask for anonymous access; other keys are AWS's and mean nothing
    here. STORAGE_EMULATOR_HOST is honoured, as by Google's own tools.
    """

    @contextmanager
    def open(self, location: Location) -> Iterator[Download]:
        """Read an object, one generation of it. See Store.open."""
        with _mapped(location):
            client = _client(location)
            blob = client.bucket(location.bucket).blob(location.key)
            blob.reload(timeout=TIMEOUT)
            # From here on this generation, whatever is written meanwhile.
            pinned = client.bucket(location.bucket).blob(
                location.key, generation=blob.generation, chunk_size=CHUNK
            )
            stream = pinned.open("rb", timeout=TIMEOUT)
        with stream:
            mapped = _MappedStream(stream, location)
            yield Download(mapped, int(blob.size), str(blob.etag or ""))  # type: ignore[arg-type]

    def look(self, location: Location) -> Look:
        """Ask about an object. See Looker.look."""
        with _mapped(location):
            blob = _client(location).bucket(location.bucket).blob(location.key)
            blob.reload(timeout=TIMEOUT)
        return Look(int(blob.size), str(blob.etag or ""))

    def put(self, location: Location, body: BinaryIO, size: int) -> None:
        """Write an object; a broken upload is resumed. ``body`` must be seekable. See Store.put."""
        with _mapped(location):
            client = _client(location)
            from google.cloud.storage.retry import DEFAULT_RETRY

            client.bucket(location.bucket).blob(location.key).upload_from_file(
                Window(body, size),
                size=size,
                content_type="application/octet-stream",
                timeout=TIMEOUT,
                retry=DEFAULT_RETRY,  # the same bytes again do no harm
            )


_loading = threading.Lock()


class _MappedStream(io.RawIOBase):
    """Google's stream with our errors."""

    def __init__(self, stream: Any, location: Location) -> None:
        super().__init__()
        self._stream = stream
        self._location = location

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill part of ``buffer``; 0 at the end."""
        with _mapped(self._location):
            data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _library() -> ModuleType:
    try:
        # One thread at a time: another must not find what this one has half loaded.
        with _loading:
            from google.api_core import exceptions as _api  # noqa: F401
            from google.auth import exceptions as _auth  # noqa: F401
            from google.cloud import storage
            from google.cloud.storage import retry as _retry  # noqa: F401
    except ImportError:
        raise GcsMissing(
            "google-cloud-storage is not installed",
            where="gs://",
            remedy="pip install 'hpcrunner[gcs]'",
        ) from None
    module: ModuleType = storage
    return module


_clients: dict[bool, Any] = {}
_making = threading.Lock()


def _client(location: Location) -> Any:
    if location.hosts is not None and not os.environ.get("STORAGE_EMULATOR_HOST"):
        check_name(location.hosts, _HOST)  # the only one that Google's library contacts
    keys = location.credentials
    anonymous = keys is not None and not keys.access_key and not keys.secret_access_key
    storage = _library()
    with _making:
        if anonymous not in _clients:
            _clients[anonymous] = (
                storage.Client.create_anonymous_client() if anonymous else storage.Client()
            )
        return _clients[anonymous]


@contextmanager
def _mapped(location: Location) -> Iterator[None]:
    """Google's errors as ours; ``from None``, since theirs hold requests with their tokens."""
    _library()
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth
    from requests.exceptions import RequestException

    where = str(location)
    try:
        yield
    except api.NotFound:
        raise ArtifactNotFound(
            "no such object or bucket", where=where, remedy="was it uploaded, and under this key?"
        ) from None
    except (api.Forbidden, api.Unauthorized) as error:
        raise ArtifactDenied(
            f"denied ({error.code})", where=where, remedy="check the rights of this account"
        ) from None
    except (auth.TransportError, api.RetryError, api.ServerError, api.TooManyRequests) as error:
        raise StoreUnreachable(
            f"no answer ({type(error).__name__})", where=where, remedy="try again later"
        ) from None
    except auth.GoogleAuthError as error:
        raise ArtifactDenied(
            f"no Google credentials on this host ({type(error).__name__})",
            where=where,
            remedy="set GOOGLE_APPLICATION_CREDENTIALS in the site's prologue",
        ) from None
    except api.ClientError as error:
        raise ArtifactNotFound(
            f"Google answered {error.code}", where=where, remedy="check bucket and key"
        ) from None
    except (api.GoogleAPIError, RequestException, OSError) as error:
        raise StoreUnreachable(
            f"no answer ({type(error).__name__})", where=where, remedy="try again later"
        ) from None
