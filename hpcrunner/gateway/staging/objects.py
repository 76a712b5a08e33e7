"""Objects as the stores have them, fetched once for all experiments that name them.

The bytes are not opened: archives are unpacked by the job side, with its own strictness. Every
experiment's own credentials are used to ask for the object first, so that nobody gets from here
what the store refuses him.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hpcrunner.crashpoint import crashpoint
from hpcrunner.gateway.staging.layout import Layout
from hpcrunner.request.location import Location
from hpcrunner.request.units import format_bytes
from hpcrunner.storage.contract import (
    ArtifactNotFound,
    DiskBudgetExceeded,
    StorageError,
    StoreUnreachable,
)
from hpcrunner.storage.stores import looker_for, store_for
from hpcrunner.sync import sync_folder

KEPT = 86400.0  # seconds after the last use
_CHUNK = 1 << 20
_PART = ".part"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SPARE = 0.02  # of the file system: left to others
_MOST = 0.5  # of the file system: no object is larger
_LOOK_EVERY = 64 << 20  # bytes between two looks at the room that is left


class Stopped(Exception):
    """Nobody wants the object any more."""


class NoRoom(Exception):
    """The file system has no room for it now."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A version of an object: what its store says of it now."""

    name: str
    size: int
    etag: str


class Objects:
    """The folders ``objects`` and ``known``."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def identify(self, location: Location) -> Identity | None:
        """Which version the store has now; None where it does not say.

        Raises ArtifactNotFound, StoreUnreachable.
        """
        looker = looker_for(location)
        if looker is None:
            return None
        try:
            look = looker.look(location)
        except (ArtifactNotFound, StoreUnreachable):
            raise
        except StorageError:
            return None  # the same is met, or is not, when the object is read
        if not look.etag or look.size < 0:
            return None
        endpoint = re.sub(r"//[^/]*@", "//", location.endpoint)
        words = (location.scheme, endpoint, location.bucket, location.key, look.etag)
        digest = hashlib.sha256("\0".join(words).encode("utf-8", "surrogatepass"))
        return Identity(digest.hexdigest(), look.size, look.etag)

    def found(self, identity: Identity) -> str | None:
        """The SHA-256 (hex) of a version that is here, which counts as used now."""
        try:
            sha256 = (self._layout.known / identity.name).read_text("ascii").strip()
            if not _SHA256.fullmatch(sha256):
                return None
            path = self._layout.objects / sha256
            if path.stat().st_size != identity.size:
                return None
            os.utime(path)
        except (OSError, UnicodeDecodeError):
            return None
        return sha256

    def fetch(
        self,
        location: Location,
        identity: Identity | None,
        limit: int | None,
        stopped: Callable[[], bool],
    ) -> str:
        """Fetch an object; returns its SHA-256 (hex).

        ``limit`` is the most bytes that it may have. Raises StorageError, NoRoom, Stopped, OSError.
        """
        part = self._layout.objects / f".{secrets.token_hex(8)}{_PART}"
        where = str(location)
        sha256 = hashlib.sha256()
        size, etag = 0, ""
        try:
            with store_for(location).open(location) as found:
                _check_size(found.size, limit, where)
                self._check_room(found.size, where)
                etag = found.etag
                looked = 0
                handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with os.fdopen(handle, "wb") as file:
                    while data := found.stream.read(_CHUNK):
                        if stopped():
                            raise Stopped
                        size += len(data)
                        _check_size(size, limit, where)
                        if size - looked >= _LOOK_EVERY:  # it may be more than was promised
                            looked = size
                            self._check_room(0, where, size)
                        sha256.update(data)
                        file.write(data)
                    file.flush()
                    os.fsync(handle)
            crashpoint("staging.fetched")
            part.rename(self._layout.objects / sha256.hexdigest())
            sync_folder(self._layout.objects)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        # It may be another one by now than was looked at.
        if identity is not None and (identity.size, identity.etag) == (size, etag):
            self._remember(identity, sha256.hexdigest())
        return sha256.hexdigest()

    def link(self, sha256: str, place: Path) -> None:
        """Give an object another name, in place of what was there. Raises OSError."""
        unfinished = place.with_name(f".{secrets.token_hex(8)}{_PART}")
        source = self._layout.objects / sha256
        try:
            try:
                os.link(source, unfinished)
            except OSError:  # no links here, or too many of them
                shutil.copyfile(source, unfinished)
            unfinished.rename(place)
        finally:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)

    def sweep(self, now: float, kept: float = KEPT) -> int:
        """Remove what no attempt has a link to and was not used for so long; returns its bytes."""
        freed = 0
        for entry in os.scandir(self._layout.objects):
            with suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if status.st_mtime < now - kept and (
                    status.st_nlink == 1 or entry.name.endswith(_PART)
                ):
                    os.unlink(entry.path)  # noqa: PTH108
                    freed += status.st_size
        for entry in os.scandir(self._layout.known):
            with suppress(OSError):
                path = Path(entry.path)
                if not (self._layout.objects / path.read_text("ascii").strip()).exists():
                    path.unlink()
        return freed

    def _remember(self, identity: Identity, sha256: str) -> None:
        unfinished = self._layout.known / f".{secrets.token_hex(8)}{_PART}"
        with suppress(OSError):
            unfinished.write_text(sha256, "ascii")
            unfinished.rename(self._layout.known / identity.name)

    def _check_room(self, size: int, where: str, come: int = 0) -> None:
        """Whether ``size`` bytes more fit, beside those that have ``come``."""
        usage = shutil.disk_usage(self._layout.objects)
        if size + come > _MOST * usage.total:
            raise DiskBudgetExceeded(
                f"{format_bytes(size + come)} to fetch, more than is ever carried through "
                f"{self._layout.root}",
                where=where,
                remedy="name it as a file that the nodes see, or make the artifact smaller",
            )
        if max(0, size) > usage.free - int(_SPARE * usage.total):
            raise NoRoom(
                f"no room for {format_bytes(max(0, size))} in {self._layout.root} "
                f"({format_bytes(usage.free)} free)"
            )


def _check_size(size: int, limit: int | None, where: str) -> None:
    if limit is not None and size > limit:
        raise DiskBudgetExceeded(
            f"{format_bytes(size)} to fetch, far more than the experiment's disk",
            where=where,
            remedy="ask for more with resources_needed.hdd",
        )
