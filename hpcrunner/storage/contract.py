"""What every artifact store promises, and its errors by kind."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.location import Location
from hpcrunner.request.reasons import Reason


class StorageError(HpcrunnerError):
    """A store said no, or could not be asked; ``reason`` says which."""

    exit_code = 69  # EX_UNAVAILABLE
    reason = Reason.STORE_UNREACHABLE


class ArtifactNotFound(StorageError):
    """No such object or bucket."""

    exit_code = 66  # EX_NOINPUT
    reason = Reason.ARTIFACT_NOT_FOUND


class ArtifactDenied(StorageError):
    """The store refused the credentials."""

    exit_code = 77  # EX_NOPERM
    reason = Reason.ARTIFACT_DENIED


class StoreUnreachable(StorageError):
    """No connection, time-outs, or server errors after all retries."""


class ArchiveRefused(StorageError):
    """Not an archive, a damaged one, or one whose members would do harm."""

    exit_code = 65  # EX_DATAERR
    reason = Reason.ARTIFACT_REFUSED


class DiskBudgetExceeded(StorageError):
    """More bytes than resources_needed.hdd allows."""

    exit_code = 65  # EX_DATAERR
    reason = Reason.DISK_BUDGET


@dataclass(frozen=True, slots=True)
class Download:
    """An object being read: a stream and what the store said of it (-1: size unknown)."""

    stream: BinaryIO
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class Look:
    """What a store says of an object (-1: size unknown). An equal ``etag`` promises equal bytes;
    it is empty where the store promises nothing.
    """

    size: int
    etag: str


class Store(Protocol):
    """One kind of store. Methods raise the StorageError of the right kind, naming the address."""

    def open(self, location: Location) -> AbstractContextManager[Download]:
        """Read an object as a stream; leaving the context closes it."""
        ...

    def put(self, location: Location, body: BinaryIO, size: int) -> None:
        """Write ``size`` bytes of ``body`` as the whole object, replacing what was there.

        Readers see the old object or the new one, never a part.
        """
        ...


class Looker(Store, Protocol):
    """A store that can be asked about an object without reading it."""

    def look(self, location: Location) -> Look:
        """What the object is now."""
        ...
