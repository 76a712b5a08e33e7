"""Writing untrusted members below one folder, and nowhere else.

Every folder on the way to a member is opened by itself and never through a link (O_NOFOLLOW), so
no order of members, links and chains of links can lead a write out of the tree. Links may be
made, but only if they end inside it. What all of it may cost is bounded (costs.py).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from hpcrunner.request.errors import shown
from hpcrunner.request.units import format_bytes
from hpcrunner.storage.contract import ArchiveRefused, DiskBudgetExceeded
from hpcrunner.storage.costs import Costs
from hpcrunner.storage.spelling import folded, folds_names

LONGEST_NAME = 4096  # PATH_MAX
MOST_LINKS_IN_A_ROW = 40  # Linux follows no more (path_resolution(7))
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FULL = (errno.ENOSPC, errno.EDQUOT)
_BAD_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
_IN_THE_WAY = (errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.EPERM, errno.EEXIST)
_CHUNK = 1 << 20

Parts = tuple[str, ...]


class Tree:
    """One folder being filled; a context manager. ``where`` names the archive in errors.

    ``costs`` counts the bytes against ``budget`` while they are written, holes of sparse files
    included, and the files, folders and links that are made. Methods raise ArchiveRefused or
    DiskBudgetExceeded; what was written until then stays for the caller to remove.

    Files get the archive's modes plus reading and writing for the owner, minus set-id bits and
    writing for others; the archive's mtimes; not its owners.
    """

    def __init__(self, folder: Path, budget: int | None, where: str) -> None:
        self.where = where
        self.costs = Costs(budget, where)
        self.path = folder
        self._root = -1
        self._at: tuple[Parts, int] = ((), -1)
        self._times: list[tuple[str, float]] = []
        self._links: list[str] = []
        # On a file system that takes A for a: each name as it takes it → as the archive has it.
        self._spelled: dict[str, str] | None = None

    def __enter__(self) -> Tree:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if folds_names(self._root):
            self._spelled = {}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            outside = self._unlink_outside()
            if kind is None:
                if outside:
                    raise self._outside(outside[0])
                for name, mtime in reversed(self._times):
                    _stamp(name, mtime, self._root)
        finally:
            self._leave()
            os.close(self._root)

    @contextmanager
    def file(self, name: str, mode: int, mtime: float | None = None) -> Iterator[OpenMember]:
        """A new regular file, replacing a file or link of that name. ``mtime`` None: now."""
        self.costs.member()
        with self._guarded(name):
            parts = self._parts(name)
            parent = self._parent(parts)
            mode = (mode & 0o755) | 0o600
            try:
                handle = os.open(parts[-1], _NEW_FILE, mode, dir_fd=parent)
            except FileExistsError:
                os.unlink(parts[-1], dir_fd=parent)
                handle = os.open(parts[-1], _NEW_FILE, mode, dir_fd=parent)
        member = OpenMember(self, handle, name)
        try:
            yield member
            member.finish(mtime)
        finally:
            os.close(handle)

    def folder(self, name: str, mode: int, mtime: float) -> None:
        """A folder, which may be there already. The root's own entry is passed over."""
        self.costs.member()
        with self._guarded(name):
            parts = self._parts(name, root=True)
            if not parts:
                return
            parent = self._parent(parts)
            try:
                os.mkdir(parts[-1], (mode & 0o755) | 0o700, dir_fd=parent)
            except FileExistsError:
                os.close(os.open(parts[-1], _FOLDER, dir_fd=parent))
            self._times.append((self._remembered(parts), mtime))

    def link(self, name: str, target: str, mtime: float) -> None:
        """A symbolic link to something inside the tree, there or not."""
        self.costs.member()
        with self._guarded(name):
            parts = self._parts(name)
            depth = len(parts) - 1
            if not target:
                raise self.refused(f"link {shown(name)} leads nowhere")
            if target.startswith("/"):
                raise self._outside(name)
            for step in target.split("/"):
                depth += 0 if step in ("", ".") else -1 if step == ".." else 1
                if depth < 0:
                    raise self._outside(name)
            parent = self._parent(parts)
            self._remembered(parts)
            try:
                os.symlink(target, parts[-1], dir_fd=parent)
            except FileExistsError:
                os.unlink(parts[-1], dir_fd=parent)
                os.symlink(target, parts[-1], dir_fd=parent)
            _stamp(parts[-1], mtime, parent)
            self._links.append("/".join(parts))

    def copy(self, name: str, source: str, mode: int, mtime: float) -> None:
        """What a hard link to an earlier member stands for: a file of its own, counted anew."""
        with self._guarded(source):
            parts = self._parts(source)
            try:
                handle = os.open(parts[-1], _READ, dir_fd=self._parent(parts, make=False))
            except FileNotFoundError:
                raise self.refused(
                    f"hard link {shown(name)} to {shown(source)}, which is not in it"
                ) from None
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise self.refused(f"hard link {shown(name)} to what is not a file")
            with self.file(name, mode, mtime) as member:
                while data := os.read(handle, _CHUNK):
                    member.write(memoryview(data))
        finally:
            os.close(handle)

    def refused(self, what: str) -> ArchiveRefused:
        """The error for a member that may not be."""
        return ArchiveRefused(what, where=self.where, remedy="pack it again without that member")

    def full(self, error: OSError) -> DiskBudgetExceeded:
        """The error for a disk that has no more room."""
        return DiskBudgetExceeded(
            f"the disk is full ({error.strerror}) after {format_bytes(self.costs.bytes)}",
            where=self.where,
            remedy="the node's scratch needs more room",
        )

    def _outside(self, name: str) -> ArchiveRefused:
        return self.refused(f"link {shown(name)} leads out of the folder")

    def _parts(self, name: str, *, root: bool = False) -> Parts:
        if name.startswith("/"):
            raise self.refused(f"member {shown(name)} has an absolute name")
        if len(os.fsencode(name)) > LONGEST_NAME:
            raise self.refused(f"member {shown(name)} has too long a name")
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if ".." in parts:
            raise self.refused(f"member {shown(name)} climbs out of the folder")
        if not parts and not root:
            raise self.refused("a member without a name")
        if self._spelled is not None:
            self._check_spelling(parts, self._spelled)
        return parts

    def _check_spelling(self, parts: Parts, spelled: dict[str, str]) -> None:
        """Refuse a name that would silently be another member here."""
        for count in range(1, len(parts) + 1):
            name = "/".join(parts[:count])
            known = spelled.get(folded(name))
            if known is None:
                spelled[folded(name)] = name
                self._remembered(parts[:count])
            elif known != name:
                raise self.refused(
                    f"members {shown(known)} and {shown(name)} are one file on this node's disk"
                )

    def _remembered(self, parts: Parts) -> str:
        name = "/".join(parts)
        self.costs.name(name)
        return name

    def _parent(self, parts: Parts, *, make: bool = True) -> int:
        """The open folder of a member; the last one stays open for the next member."""
        wanted = parts[:-1]
        if not wanted:
            return self._root
        if self._at[0] == wanted and self._at[1] >= 0:
            return self._at[1]
        there = self._at[0] if wanted[: len(self._at[0])] == self._at[0] else ()
        handle = os.dup(self._at[1] if there else self._root)
        self._leave()
        for part in wanted[len(there) :]:
            try:
                self.costs.step()
                try:
                    inner = os.open(part, _FOLDER, dir_fd=handle)
                except FileNotFoundError:
                    if not make:
                        raise
                    self.costs.member()
                    os.mkdir(part, 0o755, dir_fd=handle)
                    inner = os.open(part, _FOLDER, dir_fd=handle)
            finally:
                os.close(handle)
            handle = inner
        self._at = (wanted, handle)
        return handle

    def _leave(self) -> None:
        if self._at[1] >= 0:
            os.close(self._at[1])
        self._at = ((), -1)

    def _unlink_outside(self) -> list[str]:
        """Take away the links that lead out after all; returns their names."""
        # Only now are all links there that a link may lead through.
        outside = []
        for name in self._links:
            if self._leads_out(name):
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self._root)
                outside.append(name)
        return outside

    def _leads_out(self, name: str) -> bool:
        """Whether a link leads out of the tree, or nobody can tell."""
        # Not os.path.realpath: it follows a chain of a million links a million times.
        at: list[str] = []
        waiting, links = name.split("/")[::-1], 0
        while waiting:
            try:
                self.costs.step()
            except ArchiveRefused:
                return True
            part = waiting.pop()
            if part == "..":
                if not at:
                    return True
                at.pop()
            elif part not in ("", "."):
                at.append(part)
                try:
                    target = os.readlink("/".join(at), dir_fd=self._root)
                except OSError as error:
                    if error.errno not in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
                        return True
                    continue  # no link
                links += 1
                if links > MOST_LINKS_IN_A_ROW or target.startswith("/"):
                    return True
                at.pop()
                waiting += target.split("/")[::-1]
        return False

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, UnicodeError):
            raise self.refused(f"member {shown(name)} has a name that no file can have") from None
        except OSError as error:
            if error.errno in _FULL:
                raise self.full(error) from None
            if error.errno in _BAD_NAME:
                raise self.refused(f"member {shown(name)}: {error.strerror}") from None
            if error.errno in _IN_THE_WAY:
                raise self.refused(
                    f"member {shown(name)} passes through a link or a file of that name"
                ) from None
            raise


class OpenMember:
    """A file being written; ``Tree.file`` makes it."""

    def __init__(self, tree: Tree, handle: int, name: str) -> None:
        self._tree = tree
        self._handle = handle
        self._name = name
        self._hole = False

    def write(self, data: memoryview) -> None:
        """Append bytes."""
        self._tree.costs.spend(len(data))
        try:
            while data:
                data = data[os.write(self._handle, data) :]
        except OSError as error:
            if error.errno in _FULL:
                raise self._tree.full(error) from None
            raise
        self._hole = False

    def skip(self, count: int) -> None:
        """Append a hole. It counts like bytes: whoever copies the file pays for it."""
        if count < 0:
            raise self._tree.refused(f"sparse member {shown(self._name)} is damaged")
        self._tree.costs.spend(count)
        with self._sized():
            os.lseek(self._handle, count, os.SEEK_CUR)
        self._hole = self._hole or count > 0

    def finish(self, mtime: float | None) -> None:
        """Give the file its full length and its time."""
        if self._hole:
            with self._sized():
                os.ftruncate(self._handle, os.lseek(self._handle, 0, os.SEEK_CUR))
        if mtime is not None:
            _stamp(self._handle, mtime)

    @contextmanager
    def _sized(self) -> Iterator[None]:
        try:
            yield
        except (OSError, OverflowError):
            raise self._tree.refused(
                f"member {shown(self._name)} is larger than any file can be here"
            ) from None


def _stamp(file: int | str, mtime: float, folder: int | None = None) -> None:
    # An archive may claim a time that no file system has (or none at all): then it is now.
    with suppress(OSError, OverflowError, ValueError):
        when = int(mtime * 1e9)
        if folder is None:
            os.utime(file, ns=(when, when))
        else:
            os.utime(file, ns=(when, when), dir_fd=folder, follow_symlinks=False)
