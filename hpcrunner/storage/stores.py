"""Which store serves an address."""

from __future__ import annotations

from hpcrunner.request.location import Location
from hpcrunner.storage.contract import Looker, Store


def store_for(location: Location) -> Store:
    """The store of a location's scheme. Cheap: what a store needs is loaded at its first call."""
    remote = looker_for(location)
    if remote is not None:
        return remote
    from hpcrunner.storage.file import FileStore

    return FileStore()


def looker_for(location: Location) -> Looker | None:
    """The same, where it can be asked about objects; None for files, which need no asking."""
    if location.scheme == "s3":
        from hpcrunner.storage.s3 import S3Store

        return S3Store()
    if location.scheme == "gs":
        from hpcrunner.storage.gcs import GcsStore

        return GcsStore()
    if location.scheme == "http":
        from hpcrunner.storage.http import HttpStore

        return HttpStore()
    return None
