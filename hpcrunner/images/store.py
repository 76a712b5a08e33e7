"""An image that lies in an artifact store, fetched into a folder of ours."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from shutil import disk_usage
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, urlencode, urlsplit

from hpcrunner.images.errors import ImageUnusable, no_room, too_large
from hpcrunner.images.look import Found, look_at
from hpcrunner.images.pull import LONGEST, Pause
from hpcrunner.request.image import PlannedImage
from hpcrunner.request.location import Location, promised
from hpcrunner.request.units import format_duration
from hpcrunner.storage.contract import (
    ArchiveRefused,
    DiskBudgetExceeded,
    Download,
    Store,
    StoreUnreachable,
)
from hpcrunner.storage.stores import looker_for, store_for

_MOST_OF_THE_DISK = 0.9  # of what is free
_PACKING = 1 << 20  # what an archive adds to the file in it, at most
# What signs a request to a store: another one each time, for the same object.
_SIGNATURE = re.compile(
    r"X-(Amz|Goog)-.*|AWSAccessKeyId|GoogleAccessId|Signature|Expires|Policy|Key-Pair-Id", re.I
)


def version_of(location: Location) -> str:
    """What tells this very object from others at its address, "" where the store says nothing.

    It is asked with the request's own credentials, so that nobody gets an image from the cache
    which the store refuses him. Raises the StorageError of the kind.
    """
    looker = looker_for(location)
    if looker is not None:
        return looker.look(location).etag
    with store_for(location).open(location) as found:
        return found.etag


def query_of(location: Location) -> str:
    """What of a web address's query may tell one object from another."""
    if location.scheme != "http":
        return ""
    pairs = parse_qsl(urlsplit(location.endpoint).query, keep_blank_values=True)
    return urlencode([pair for pair in pairs if not _SIGNATURE.fullmatch(pair[0])])


def fetch(image: PlannedImage, scratch: Path, largest: int = 0, pause: Pause = time.sleep) -> Path:
    """Fetch into ``scratch``; returns the image's file, which has at most ``largest`` bytes (0:
    any number).

    The bytes are counted as they come, whatever the store says of their number. The released
    client packs a file into a tar of one member, so that is looked into. Raises the StorageError
    of the kind: ImageUnusable for one that is too large, or that its key's hash contradicts.
    """
    from hpcrunner.storage.transfer import download

    location = image.location
    if location is None:
        raise AssertionError("an image of no store")
    free = int(_MOST_OF_THE_DISK * disk_usage(scratch).free)
    bounded = largest and largest + _PACKING <= free
    budget = largest + _PACKING if bounded else free
    try:
        watched = _Watched(store_for(location), pause)
        got = download(location, scratch / "object", False, budget=budget, store=watched)
        promise = promised(location)
        if promise and got.sha256 != promise:
            raise ImageUnusable(
                f"its content is not what its key promises (it has {got.sha256[:12]}…)",
                where=image.reference,
                remedy="upload it again",
            )
        (file,) = (scratch / "object").iterdir()
        if look_at(file) is not Found.OTHER:
            return file
        packed = Location("file", str(file))
        download(packed, scratch / "unpacked", True, budget=budget)
    except ArchiveRefused:
        raise no_image(image.reference) from None
    except DiskBudgetExceeded:
        if bounded:
            raise too_large(image.reference, largest) from None
        raise no_room(image.reference, scratch) from None
    inner = [path for path in (scratch / "unpacked").iterdir() if path.is_file()]
    if len(inner) != 1 or look_at(inner[0]) is not Found.IMAGE:
        raise no_image(image.reference)
    return inner[0]


def no_image(where: str) -> ImageUnusable:
    """What is said of bytes that are none."""
    return ImageUnusable(
        "not a container image (neither SIF nor squashfs)",
        where=where,
        remedy="send a SIF file, as apptainer build makes it",
    )


class _Watched:
    """A store that is read for LONGEST at most, and for as long as ``pause`` does not raise."""

    def __init__(self, store: Store, pause: Pause) -> None:
        self._store = store
        self._pause = pause

    @contextmanager
    def open(self, location: Location) -> Iterator[Download]:
        """See Store.open."""
        with self._store.open(location) as found:
            stream: Any = _WatchedStream(found.stream, self._pause, str(location))
            yield replace(found, stream=stream)

    def put(self, location: Location, body: BinaryIO, size: int) -> None:
        """See Store.put."""
        self._store.put(location, body, size)


class _WatchedStream(io.RawIOBase):
    def __init__(self, stream: BinaryIO, pause: Pause, where: str) -> None:
        super().__init__()
        self._stream: Any = stream
        self._pause = pause
        self._where = where
        self._until = time.monotonic() + LONGEST

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self._pause(0.0)
        if time.monotonic() > self._until:
            raise StoreUnreachable(
                f"given up after {format_duration(LONGEST)}",
                where=self._where,
                remedy="is the store well, and the line to it?",
            )
        count: int = self._stream.readinto(buffer)
        return count
