"""Bringing work to its stores: the workspace's archive, and the database record."""

from __future__ import annotations

import io
import json
import os
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path

from hpcrunner.client.build import Stores, Work, build_request
from hpcrunner.client.workspace import pack_workspace
from hpcrunner.request.location import Location
from hpcrunner.request.model import StoreConfig
from hpcrunner.request.storelayout import new_key, record_key, workspace_key
from hpcrunner.storage.contract import ArtifactNotFound
from hpcrunner.storage.file import FileStore
from hpcrunner.storage.stores import store_for


def upload_work(work: Work, folder: Path, stores: Stores) -> tuple[str, bytes]:
    """Put the folder's archive and the record into their stores; returns the key and the message.

    The archive is content-addressed: one that is there already is not sent again. The record
    (``experiments/<key>``, status waiting) holds what the message's ``experiment`` holds,
    credentials included, so as a file it is private (0600). Nothing is published yet.

    Raises WorkspaceError or the StorageError of the kind.
    """
    key = new_key(time.time, uuid.uuid4)
    digest = upload_workspace(folder, stores.storage)
    body = build_request(work, key, digest, stores, time.time())
    write_record(key, body, stores.database)
    return key, body


def upload_workspace(folder: Path, storage: StoreConfig) -> str:
    """Put the folder's archive there unless an equal one is; returns its SHA-256 (hex)."""
    with tempfile.TemporaryFile() as archive:
        packed = pack_workspace(folder, archive)
        place = location_in(storage, workspace_key(packed.sha256))
        if not _is_there(place, packed.size):
            archive.seek(0)
            store_for(place).put(place, archive, packed.size)
    return packed.sha256


def write_record(key: str, body: bytes, database: StoreConfig) -> None:
    """Write the client's database record of a message: its ``experiment`` object."""
    record = json.dumps(json.loads(body)["experiment"]).encode()
    place = location_in(database, record_key(key))
    store = FileStore(private=True) if place.scheme == "file" else store_for(place)
    store.put(place, io.BytesIO(record), len(record))


def location_in(store: StoreConfig, key: str) -> Location:
    """Where a key lies in a store of type ``local`` or ``s3``."""
    if store.type == "local":
        return Location("file", f"{store.endpoint}/{store.bucket}/{key}")
    return Location("s3", key, store.bucket, store.endpoint, store.region, store.credentials)


def _is_there(place: Location, size: int) -> bool:
    try:
        if place.scheme == "file":
            with suppress(PermissionError):  # a store of somebody else, who tidies it himself
                os.utime(place.key)  # it is in use again: see gateway/storesweep.py
        with store_for(place).open(place) as found:
            return found.size == size  # a cut copy of an older store would be no help
    except (ArtifactNotFound, FileNotFoundError):
        return False
