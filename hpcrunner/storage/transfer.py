"""Artifacts between a store and the experiment's folder on the node."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from hpcrunner.request.location import Location
from hpcrunner.request.units import format_bytes
from hpcrunner.storage.contract import DiskBudgetExceeded, Download, Store
from hpcrunner.storage.pack import LeaveOut, Packed, pack
from hpcrunner.storage.stores import store_for
from hpcrunner.storage.tree import Tree
from hpcrunner.storage.unpack import CHUNK
from hpcrunner.storage.unpack import unpack as unpack_archive


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came: ``bytes`` and ``members`` as they lie on disk; ``size``, ``sha256`` (hex) and
    ``etag`` of the object. ``single``: see Unpacked; None for an object that is not unpacked.
    """

    bytes: int
    members: int
    size: int
    sha256: str
    etag: str
    single: str | None = None


def download(
    location: Location,
    destination: Path,
    unpack: bool | None,
    *,
    budget: int | None = None,
    store: Store | None = None,
    name: str = "",
) -> Fetched:
    """Fetch an artifact into the folder ``destination`` (``<root>/<tag>``), made if need be.

    Always a folder, as the Go runner has it: a file that the client packed alone comes as
    ``<root>/<tag>/<file>``. The client's completion service looks for either, task code lists
    the folder, and ``as_packed`` finds the way back. ``unpack`` is the artifact's ``unpack``:
    None (sent for archives that are used again) means True; False stores the object as it is,
    under ``name``, else the last part of its key or URL. ``budget`` bounds the bytes on disk;
    ``store`` replaces the location's usual one.

    Bytes go from the store into the files in one pass, hashed on the way. Raises the
    StorageError of the kind; what was written until then is left for the caller to remove.
    """
    with (store or store_for(location)).open(location) as found:
        stream = _Hashed(found.stream)
        if unpack is False:
            name = name or file_name(location, destination.name)
            size = _write(stream, found, str(location), destination / name, budget)
            members, single = 1, None
        else:
            done = unpack_archive(stream, destination, budget=budget, where=str(location))  # type: ignore[arg-type]
            size, members, single = done.bytes, done.members, done.single
        return Fetched(size, members, stream.size, stream.sha256.hexdigest(), found.etag, single)


def upload(
    path: Path,
    location: Location,
    scratch: Path,
    *,
    newest_mtime_floor: float | None = None,
    old_client: bool = False,
    leave_out: LeaveOut | None = None,
    store: Store | None = None,
    stored: str = "",
    within: Path | None = None,
) -> Packed:
    """Pack a folder or file as ``pack`` does, and write it as one object, whole or not at all.

    Where the tar's ``content`` is ``stored`` already, nothing is sent.

    The tar waits in an unnamed file in ``scratch`` (on the node, not the memory): what is sent
    twice after a lost connection must be the same bytes, and the folder may still change.
    ``store`` replaces the location's usual one. Raises the StorageError of the kind, or OSError
    where ``path`` cannot be read or ``scratch`` not be written.
    """
    with tempfile.TemporaryFile(dir=scratch) as tar:
        packed = pack(
            path,
            tar,
            newest_mtime_floor=newest_mtime_floor,
            old_client=old_client,
            leave_out=leave_out,
            within=within,
        )
        if packed.content == stored:
            return packed
        tar.seek(0)
        (store or store_for(location)).put(location, tar, packed.size)
    return packed


def as_packed(folder: Path) -> Path:
    """What to pack of an artifact's folder so that the client finds what it expects.

    Where a folder ``<tag>`` holds nothing but a file ``<tag>``, that file: the client's own
    worker has ``retval`` and ``output`` as files there, and reads them back as files.
    """
    inner = folder / folder.name
    try:
        if os.listdir(folder) == [folder.name] and inner.is_file() and not inner.is_symlink():
            return inner
    except OSError:
        return folder
    return folder


def _write(stream: _Hashed, found: Download, where: str, path: Path, budget: int | None) -> int:
    if budget is not None and found.size > budget:
        raise DiskBudgetExceeded(
            f"{format_bytes(found.size)}, more than the {format_bytes(budget)} of disk it may use",
            where=where,
            remedy="ask for more with resources_needed.hdd",
        )
    with (
        Tree(path.parent, budget, where) as tree,
        tree.file(path.name, 0o644) as file,
    ):
        buffer = memoryview(bytearray(CHUNK))
        while count := stream.readinto(buffer):
            file.write(buffer[:count])
    return tree.costs.bytes


def file_name(location: Location, otherwise: str) -> str:
    """The last part of the key, or of the URL's path; ``otherwise`` where that names no file."""
    path = location.key
    if location.scheme == "http":
        path = urllib.parse.unquote(urllib.parse.urlsplit(location.endpoint).path)
    name = path.rpartition("/")[2]
    usable = name not in ("", ".", "..") and "\0" not in name and len(os.fsencode(name)) <= 255
    return name if usable else otherwise


class _Hashed(io.RawIOBase):
    """Passes a stream's bytes on, counted and hashed."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self.size = 0
        self.sha256 = hashlib.sha256()
        self._stream: Any = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        count: int = self._stream.readinto(buffer)
        self.sha256.update(memoryview(buffer)[:count])
        self.size += count
        return count
