"""Packing a folder or a file as the StudioML client expects it, while it may still change."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_CHUNK = 1 << 20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_GONE = (errno.ENOENT, errno.ESTALE, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)

LeaveOut = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Packed:
    """A tar that was written: its size and SHA-256 (hex), the count of its members.

    ``content`` is a digest (hex) of the same members without their times: what was touched, or
    written again with the same bytes, has the same. ``left_out`` are names with the reason each
    is not in it: files that may not be read, and links that lead out of the folder.
    """

    size: int
    sha256: str
    members: int
    content: str
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Signature:
    """What ``content_signature`` saw. ``newest`` is the latest change (st_ctime, epoch seconds)."""

    digest: str
    newest: float


def pack(
    source: Path,
    into: BinaryIO,
    *,
    single_name: str | None = None,
    newest_mtime_floor: float | None = None,
    old_client: bool = False,
    leave_out: LeaveOut | None = None,
    within: Path | None = None,
) -> Packed:
    """Write ``source`` as a PAX tar.

    A folder's members are its entries, without ``./`` before their names; a file is one member
    ``./<single_name>``, by default its own name. That difference is how clients from 0.0.39 on
    tell them apart: exactly one member that begins with ``./`` is a file. Clients before that
    have it the other way round (``old_client``).

    The folder may be in use: what vanishes meanwhile is passed over, a file has the length it
    had when it was opened (cut there, or filled up with zeros if it shrank). Sockets, pipes and
    devices are passed over. Links stay links; those with an absolute target inside the folder
    become relative, since the folder will have another place; those that lead out of it are
    left out, as no careful reader would unpack them. Names come sorted and owners are dropped,
    so that equal folders give equal bytes. Hard links become files.

    ``newest_mtime_floor``: no member's mtime is earlier than this (epoch seconds). The
    completion service takes only results that are later than its submission, by its own clock.
    ``leave_out`` is asked for each relative name (folders with a slash at their end). With
    ``within``, nothing outside that folder is read, whatever becomes a link meanwhile.

    Raises OSError where ``source`` itself cannot be read, or ``into`` not be written.
    """
    out = _Counted(into)
    tar = tarfile.TarFile(
        fileobj=out,  # type: ignore[arg-type]
        mode="w",
        format=tarfile.PAX_FORMAT,
        encoding="utf-8",
        errors="surrogateescape",
        copybufsize=_CHUNK,
    )
    root = os.path.realpath(source)
    packing = _Packing(tar, root, newest_mtime_floor, leave_out, _seen_as(within))
    if source.is_dir():
        packing.folder(source, "./" if old_client else "")
    else:
        prefix = "" if old_client else "./"
        packing.file(source, single_name or source.name, prefix, must=True)
    tar.close()
    return Packed(
        out.size,
        out.sha256.hexdigest(),
        packing.members,
        packing.content.hexdigest(),
        tuple(packing.left_out),
    )


def content_signature(path: Path) -> Signature:
    """What changes when a file or folder does, without reading any content.

    Made of the names, kinds, sizes, link targets, mtimes, ctimes and inodes of all that is below;
    no program can set a ctime back. A file that is written again within one tick of the file
    system's clock with the same length goes unseen, so a signature whose ``newest`` is but a
    moment old proves nothing. Take it before packing: then what changes meanwhile shows at the
    next look. What is not there has the digest "".
    """
    digest = hashlib.blake2b(digest_size=16)
    newest = 0.0
    if not path.exists():
        return Signature("", newest)
    waiting = [("", path.resolve())]
    while waiting:
        name, entry = waiting.pop()
        with suppress(OSError):  # it vanished meanwhile
            status = entry.lstat()
            words = [name, oct(stat.S_IFMT(status.st_mode))]
            if stat.S_ISREG(status.st_mode):
                words += [str(status.st_size), str(status.st_mtime_ns)]
                words += [str(status.st_ctime_ns), str(status.st_ino)]
            elif stat.S_ISLNK(status.st_mode):
                words.append(str(entry.readlink()))
            digest.update(os.fsencode("\0".join(words)) + b"\0\0")
            newest = max(newest, status.st_ctime)
            if stat.S_ISDIR(status.st_mode):
                waiting += [(f"{name}/{inner}", entry / inner) for inner in _names(entry)]
    return Signature(digest.hexdigest(), newest)


class _Packing:
    """The members of one tar, as they are added."""

    def __init__(
        self,
        tar: tarfile.TarFile,
        root: str,
        mtime_floor: float | None,
        leave_out: LeaveOut | None,
        within: str,
    ) -> None:
        self.members = 0
        self.content = hashlib.sha256()
        self.left_out: list[str] = []
        self._tar: Any = tar
        self._root = root
        self._mtime_floor = mtime_floor
        self._leave_out = leave_out
        self._within = within

    def folder(self, folder: Path, prefix: str) -> None:
        """The entries of the folder and all below, parents first. OSError: it cannot be read."""
        waiting = [(folder / name, name) for name in reversed(self._names(folder))]
        while waiting:
            path, name = waiting.pop()
            try:
                status = path.lstat()
                is_folder = stat.S_ISDIR(status.st_mode)
                inner = self._names(path) if is_folder else []
            except OSError as error:
                self._unreadable(name, error)
                continue
            if self._leave_out and self._leave_out(f"{name}/" if is_folder else name):
                continue
            if is_folder:
                self._write(self._member(prefix + name, tarfile.DIRTYPE, status))
                waiting += [(path / entry, f"{name}/{entry}") for entry in reversed(inner)]
            elif stat.S_ISLNK(status.st_mode):
                self._link(path, name, prefix, status)
            elif stat.S_ISREG(status.st_mode):
                self.file(path, name, prefix)

    def file(self, path: Path, name: str, prefix: str, *, must: bool = False) -> None:
        """A regular file as it is now. ``must``: raise OSError where it cannot be read."""
        try:
            # The source itself may be a link; below it, a file that became one meanwhile is not.
            handle = os.open(path, _READ & ~os.O_NOFOLLOW if must else _READ)
        except OSError as error:
            if must:
                raise
            self._unreadable(name, error)
            return
        try:
            if not self._is_inside(handle):
                if must:
                    raise _outside(path)
                self.left_out.append(f"{name}: it is outside of the experiment's folder")
                return
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                if must:
                    raise OSError(errno.EINVAL, "neither a file nor a folder", str(path))
                return
            member = self._member(prefix + name, tarfile.REGTYPE, status)
            member.size = status.st_size
            self._write(member, _Steady(handle, status.st_size, self.content.update))
        finally:
            os.close(handle)

    def _names(self, folder: Path) -> list[str]:
        if not self._within:
            return _names(folder)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not self._is_inside(handle):
                raise _outside(folder)
            return sorted(os.listdir(handle), key=os.fsencode)
        finally:
            os.close(handle)

    def _is_inside(self, handle: int) -> bool:
        """By what the kernel has opened: a path may lead elsewhere a moment later."""
        path = _path_of(handle) if self._within else ""
        return path == self._within or path.startswith(f"{self._within}/")

    def _link(self, path: Path, name: str, prefix: str, status: os.stat_result) -> None:
        try:
            target = os.readlink(path)  # noqa: PTH115 - Path would tidy the target
        except OSError as error:
            self._unreadable(name, error)
            return
        end = os.path.realpath(path)
        inside = end == self._root or end.startswith(f"{self._root}/")
        if inside and target.startswith("/"):
            target = os.path.relpath(end, os.path.realpath(path.parent))
        if not inside or not _stays(name, target):
            self.left_out.append(f"{name}: a link that leads out of the folder")
            return
        member = self._member(prefix + name, tarfile.SYMTYPE, status)
        member.linkname = target
        self._write(member)

    def _member(self, name: str, kind: bytes, status: os.stat_result) -> tarfile.TarInfo:
        member = tarfile.TarInfo(name)
        member.type = kind
        member.mode = status.st_mode & 0o777
        member.mtime = max(status.st_mtime, self._mtime_floor or 0.0)
        return member

    def _write(self, member: tarfile.TarInfo, content: Any = None) -> None:
        words = (
            member.name,
            member.linkname,
            member.type.hex(),
            oct(member.mode),
            str(member.size),
        )
        self.content.update(os.fsencode("\0".join(words)) + b"\0")
        self._tar.addfile(member, content)
        self._tar.members = []  # or they would all stay in memory
        self.members += 1

    def _unreadable(self, name: str, error: OSError) -> None:
        if error.errno not in _GONE:
            self.left_out.append(f"{name}: {error.strerror}")


def _seen_as(folder: Path | None) -> str:
    """A folder's path as the kernel tells it of what is open; "" for none."""
    if folder is None:
        return ""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _path_of(handle)
    finally:
        os.close(handle)


def _path_of(handle: int) -> str:
    return os.readlink(f"/proc/self/fd/{handle}")  # noqa: PTH115


def _outside(path: Path) -> OSError:
    return OSError(errno.EXDEV, "leads out of the experiment's folder", str(path))


def _names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder), key=os.fsencode)


def _stays(name: str, target: str) -> bool:
    """True where a link's words alone never climb above the folder."""
    depth = name.count("/")
    for step in target.split("/"):
        depth += 0 if step in ("", ".") else -1 if step == ".." else 1
        if depth < 0:
            return False
    return not target.startswith("/")


class _Steady:
    """Exactly ``size`` bytes of an open file, whatever happens to it meanwhile; ``seen`` by one."""

    def __init__(self, handle: int, size: int, seen: Callable[[bytes], None]) -> None:
        self._handle = handle
        self._left = size
        self._seen = seen

    def read(self, size: int) -> bytes:
        """The next bytes; zeros where the file has become shorter."""
        wanted = min(size, self._left)
        pieces = b"".join(self._pieces(wanted))
        self._left -= wanted
        data = pieces.ljust(wanted, b"\0")
        self._seen(data)
        return data

    def _pieces(self, wanted: int) -> Iterator[bytes]:
        while wanted and (data := os.read(self._handle, wanted)):
            wanted -= len(data)
            yield data


class _Counted:
    """What tarfile writes to: passes bytes on, counts and hashes them."""

    def __init__(self, into: BinaryIO) -> None:
        self.size = 0
        self.sha256 = hashlib.sha256()
        self._into = into

    def write(self, data: bytes) -> int:
        self._into.write(data)
        self.sha256.update(data)
        self.size += len(data)
        return len(data)

    def tell(self) -> int:
        return self.size
