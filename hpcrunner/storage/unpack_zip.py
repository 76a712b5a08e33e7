"""Unpacking zip archives, by the rules that hold for tars."""

from __future__ import annotations

import stat
import tempfile
import time
import zipfile
from pathlib import Path
from typing import BinaryIO

from hpcrunner.request.errors import shown
from hpcrunner.storage.contract import ArchiveRefused
from hpcrunner.storage.costs import MOST_MEMBERS
from hpcrunner.storage.tree import Tree

_CHUNK = 1 << 20
_LONGEST_TARGET = 4096
MOST_DIRECTORY = 32 << 20  # zipfile keeps all of it in memory, tenfold
_END = b"PK\x05\x06"  # APPNOTE.TXT, 4.3.16
_END64 = b"PK\x06\x06"  # 4.3.14
_LAST = 22 + 65535 + 76  # most bytes from the end records to the end
_UNIX = 3  # ZipInfo.create_system: only then do the upper attribute bits hold a mode


def unpack_zip(stream: BinaryIO, beside: Path, tree: Tree) -> int:
    """Unpack into ``tree``; returns the bytes of its members.

    The zip itself waits in an unnamed file in ``beside``, counted like its members, since both
    are on disk at the same time. Raises what Tree raises.
    """
    try:
        with tempfile.TemporaryFile(dir=beside) as spool:
            while data := stream.read(_CHUNK):
                tree.costs.spend(len(data))
                _spool(spool, data, tree)
            spooled = tree.costs.bytes
            if _directory_size(spool) > MOST_DIRECTORY:
                raise tree.refused("a zip with more members than can be remembered")
            with zipfile.ZipFile(spool) as archive:
                members = archive.infolist()
                if len(members) > MOST_MEMBERS:
                    raise tree.refused(f"{len(members)} members")
                for member in members:
                    _take(archive, member, tree)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ArchiveRefused(
            f"a zip that cannot be read ({error or type(error).__name__})",
            where=tree.where,
            remedy="upload it again, or as a tar",
        ) from None
    return tree.costs.bytes - spooled


def _directory_size(spool: BinaryIO) -> int:
    """The greatest size of the central directory that an end record of this zip may name."""
    start = max(0, spool.seek(0, 2) - _LAST)
    spool.seek(start)
    end = spool.read()
    sizes = [0]
    for magic, at, length in ((_END, 12, 4), (_END64, 40, 8)):
        found = end.find(magic)
        while found >= 0:
            size = int.from_bytes(end[found + at : found + at + length], "little")
            if not (magic == _END and size == 0xFFFFFFFF):  # says: see the other record
                sizes.append(size)
            found = end.find(magic, found + 1)
    return max(sizes)


def _spool(spool: BinaryIO, data: bytes, tree: Tree) -> None:
    try:
        spool.write(data)
    except OSError as error:
        raise tree.full(error) from None


def _take(archive: zipfile.ZipFile, member: zipfile.ZipInfo, tree: Tree) -> None:
    mode = member.external_attr >> 16 if member.create_system == _UNIX else 0
    kind = stat.S_IFMT(mode)
    try:
        mtime = time.mktime((*member.date_time, 0, 0, -1))
    except (OverflowError, ValueError):
        mtime = 0.0
    if member.header_offset < 0:  # zipfile would seek there
        raise tree.refused(f"member {shown(member.filename)} lies before the archive")
    if member.flag_bits & 1:
        raise tree.refused(f"member {shown(member.filename)} is encrypted")
    if member.is_dir():
        tree.folder(member.filename, mode or 0o755, mtime)
    elif kind == stat.S_IFLNK:
        if member.file_size > _LONGEST_TARGET:
            raise tree.refused(f"link {shown(member.filename)} has too long a target")
        with archive.open(member) as file:
            target = file.read(_LONGEST_TARGET + 1).decode("utf-8", "surrogateescape")
        tree.link(member.filename, target, mtime)
    elif kind in (0, stat.S_IFREG):
        with archive.open(member) as file, tree.file(member.filename, mode or 0o644, mtime) as out:
            while data := file.read(_CHUNK):
                out.write(memoryview(data))
    else:
        raise tree.refused(f"member {shown(member.filename)} is neither a file nor a folder")
