"""Unpacking what comes from a store: by content, as a stream, and strictly.

Object keys say little of what is in them: the client names plain tars ``.tar.gz``, old ones
named bzip2 ``.tgz``. So the first bytes decide.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from hpcrunner.request.errors import shown
from hpcrunner.storage import sniff
from hpcrunner.storage.contract import ArchiveRefused
from hpcrunner.storage.tree import Tree
from hpcrunner.storage.unpack_zip import unpack_zip
from hpcrunner.storage.xz import XzStream

CHUNK = 1 << 20
MOST_HEADER = 8 << 20  # of one member: tarfile keeps headers in memory
MOST_GLOBAL = 1 << 20  # of all global headers: they hold for all later members
_TRAILER = 64 << 20  # read after a tar's end, so that checksums at the end are looked at
_DAMAGED = (
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    EOFError,
    ArithmeticError,
    LookupError,
    ValueError,  # Unicode errors among them
    RecursionError,  # extended headers upon extended headers
)


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What an archive was: bytes and members written.

    ``single`` is the name of the file where the archive held exactly one member ``./<name>``:
    the client (0.0.39 on) packs an artifact so that is a file rather than a folder.
    """

    bytes: int
    members: int
    single: str | None = None


def unpack(
    stream: BinaryIO, destination: Path, *, budget: int | None = None, where: str = "archive"
) -> Unpacked:
    """Unpack a tar (plain, gzip, bzip2, xz, lzma) or a zip into the folder ``destination``.

    The folder is made (0700) if it is not there. Bytes go straight from the stream to the
    files; only a zip, whose table stands at its end, waits in an unnamed file beside
    ``destination``. ``budget`` bounds the bytes on disk, None for no bound. ``where`` names the
    archive in errors. The stream is read to its end.

    Raises ArchiveRefused (not an archive, damaged, or a member that would do harm),
    DiskBudgetExceeded, and whatever reading the stream raises. The part written until then is
    left for the caller to remove, with no link in it that leads outside.
    """
    head, source = _looked_at(stream)
    if not head:
        raise ArchiveRefused("an empty object", where=where, remedy="was the upload cut off?")
    with _refusing_damage(where):
        if head.startswith(sniff.ZIP):
            with Tree(destination, budget, where) as tree:
                size = unpack_zip(source, destination.parent, tree)
            return Unpacked(size, tree.costs.members)
        inner, plain = _decompressed(head, source)
        with Tree(destination, budget, where) as tree:
            single = _unpack_tar(inner, plain, tree)
        _drain(plain, _TRAILER)
        _drain(source, None)
    return Unpacked(tree.costs.bytes, tree.costs.members, single)


def _looked_at(stream: Any) -> tuple[bytes, BinaryIO]:
    """The first bytes of a stream, and a buffered stream of all of them."""
    head = b""
    while len(head) < sniff.HEAD and (data := stream.read(sniff.HEAD - len(head))):
        head += data
    return head, io.BufferedReader(_Joined(head, stream), CHUNK)


def _decompressed(head: bytes, source: BinaryIO) -> tuple[bytes, BinaryIO]:
    if head[257:262] == sniff.USTAR:  # whatever its first member's name looks like
        return head, source
    if head.startswith(sniff.GZIP):
        return _looked_at(gzip.GzipFile(fileobj=source))
    if head.startswith(sniff.BZIP2):
        return _looked_at(bz2.BZ2File(source))
    if head.startswith((sniff.XZ, sniff.LZMA)):
        return _looked_at(XzStream(source))
    return head, source


def _unpack_tar(head: bytes, source: BinaryIO, tree: Tree) -> str | None:
    forward = _Forward(source, tree.where)
    try:
        tar: Any = tarfile.TarFile(
            fileobj=forward,  # type: ignore[arg-type]
            mode="r",
            encoding="utf-8",
            errors="surrogateescape",
        )
    except tarfile.ReadError:
        raise ArchiveRefused(
            f"not an archive but {sniff.described(head)}",
            where=tree.where,
            remedy="upload a tar, or send the artifact with unpack false",
        ) from None
    count, single = 0, None
    while (member := tar.next()) is not None:
        tar.members = []  # or they would all stay in memory
        if sum(map(len, tar.pax_headers.values())) > MOST_GLOBAL:
            raise tree.refused("global headers beyond all measure")
        _take(member, forward, tree)
        forward.next_header()
        count += 1
        if count == 1 and member.isreg() and member.name.startswith("./"):
            single = member.name.rpartition("/")[2]
    if forward.last.strip(b"\0"):
        # tarfile ends in silence at a header it cannot read: members would be missing.
        raise ArchiveRefused(
            f"damaged after {count} members", where=tree.where, remedy="upload it again"
        )
    return single if count == 1 else None


def _take(member: tarfile.TarInfo, forward: _Forward, tree: Tree) -> None:
    if member.isdir():
        tree.folder(member.name, member.mode, member.mtime)
    elif member.issym():
        tree.link(member.name, member.linkname, member.mtime)
    elif member.islnk():
        tree.copy(member.name, member.linkname, member.mode, member.mtime)
    elif member.isreg():
        if member.size < 0:
            raise tree.refused(f"member {shown(member.name)} has a negative size")
        with tree.file(member.name, member.mode, member.mtime) as file:
            stretches: Any = [(0, member.size)] if member.sparse is None else member.sparse
            at = 0
            for offset, size in stretches:
                if not size:  # GNU tar fills its table up with these
                    continue
                file.skip(offset - at)
                for data in forward.data(size):
                    file.write(data)
                at = offset + size
            file.skip(member.size - at)
    else:
        kinds = {
            tarfile.CHRTYPE: "a device",
            tarfile.BLKTYPE: "a device",
            tarfile.FIFOTYPE: "a named pipe",
        }
        kind = kinds.get(member.type, "of an unknown kind")
        raise tree.refused(f"member {shown(member.name)} is {kind}")


@contextmanager
def _refusing_damage(where: str) -> Iterator[None]:
    """What decompressors and tarfile raise for damage, as ArchiveRefused."""
    try:
        yield
    except _DAMAGED as error:
        why = type(error).__name__
    except OSError as error:
        if error.errno is not None:
            raise
        why = "bad compressed data"  # bz2 says it so
    else:
        return
    raise ArchiveRefused(
        f"damaged or cut off ({why})", where=where, remedy="upload it again"
    ) from None


def _drain(source: BinaryIO, most: int | None) -> None:
    while (most is None or most > 0) and (data := source.read(CHUNK)):
        most = None if most is None else most - len(data)


class _Joined(io.RawIOBase):
    """Bytes already read, and the stream they come from. Closing it leaves that open."""

    def __init__(self, head: bytes, stream: Any) -> None:
        super().__init__()
        self._head = head
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not self._head:
            count: int = self._stream.readinto(buffer)
            return count
        data, self._head = self._head[: len(buffer)], self._head[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


class _Forward:
    """What tarfile reads headers from: forward only, and never more than fits.

    ``last`` holds the block that tarfile read last.
    """

    def __init__(self, source: BinaryIO, where: str) -> None:
        self.last = b""
        self._source = source
        self._where = where
        self._at = 0
        self._header = 0
        self._buffer = memoryview(bytearray(CHUNK))

    def next_header(self) -> None:
        """What is read from here on belongs to the next member's header."""
        self._header = 0

    def tell(self) -> int:
        return self._at

    def seek(self, to: int) -> int:
        if to < self._at:
            raise tarfile.ReadError("backwards")
        for _ in self._chunks(to - self._at):
            pass
        return self._at

    def read(self, size: int) -> bytes:
        self._header += size
        if size < 0 or self._header > MOST_HEADER:
            raise ArchiveRefused(
                "a header beyond all measure", where=self._where, remedy="pack it again"
            )
        self.last = self._source.read(size)
        self._at += len(self.last)
        return self.last

    def data(self, size: int) -> Iterator[memoryview]:
        """``size`` bytes of a member, in pieces that hold until the next one."""
        left = size
        for piece in self._chunks(size):
            left -= len(piece)
            yield piece
        if left:
            raise EOFError

    def _chunks(self, size: int) -> Iterator[memoryview]:
        source: Any = self._source
        while size > 0:
            count = source.readinto(self._buffer[:size])
            if not count:
                return
            self._at += count
            size -= count
            yield self._buffer[:count]
