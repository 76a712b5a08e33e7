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
from hpcrunner.storage.tree import MOST_MEMBERS, Tree

_CHUNK = 1 << 20
_LONGEST_TARGET = 4096
_UNIX = 3  # ZipInfo.create_system: only then do the upper attribute bits hold a mode


def unpack_zip(stream: BinaryIO, beside: Path, tree: Tree) -> int:
    """Unpack into ``tree``; returns the bytes of its members.

    The zip itself waits in an unnamed file in ``beside``, counted like its members, since both
    are on disk at the same time. Raises what Tree raises.
    """
    try:
        with tempfile.TemporaryFile(dir=beside) as spool:
            while data := stream.read(_CHUNK):
                tree.spend(len(data))
                _spool(spool, data, tree)
            spooled = tree.bytes
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
    return tree.bytes - spooled


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
