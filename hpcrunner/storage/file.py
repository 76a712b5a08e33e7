"""Artifacts as files on a shared file system: a store without a server."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from hpcrunner.request.location import Location
from hpcrunner.storage.contract import (
    ArtifactDenied,
    ArtifactNotFound,
    DiskBudgetExceeded,
    Download,
    StorageError,
    StoreUnreachable,
)
from hpcrunner.sync import sync_folder

_CHUNK = 1 << 20
_PRIVATE = 0o600
_SHARED = 0o666


class FileStore:
    """Files at absolute paths.

    A new file gets the mode that the umask gives, since results are often shared with a group,
    but is never writable for others. With ``private`` it is 0600 and its new folders 0700: for
    what holds credentials. A file that is replaced keeps its mode, so what was written as
    private stays so. Folders above it are made.
    """

    def __init__(self, *, private: bool = False) -> None:
        self._file_mode = _PRIVATE if private else _SHARED
        self._folder_mode = 0o700 if private else 0o777

    @contextmanager
    def open(self, location: Location) -> Iterator[Download]:
        """Read a file. See Store.open. The etag tells versions of one path apart."""
        path = _absolute(location)
        with _mapped(location):
            # Without O_NONBLOCK, opening a named pipe would wait for a writer for ever.
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
                raise ArtifactNotFound(
                    f"is {kind}", where=str(location), remedy="name the file itself"
                )
            etag = f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"
            with os.fdopen(handle, "rb", buffering=0, closefd=False) as stream:
                yield Download(stream, status.st_size, etag)
        finally:
            os.close(handle)

    def put(self, location: Location, body: BinaryIO, size: int) -> None:
        """Write a file beside its place, sync it, and rename it there. See Store.put."""
        path = _absolute(location)
        with _mapped(location):
            self._make_folders(path.parent)
            unfinished = path.parent / f".{path.name[:200]}.{secrets.token_hex(8)}.part"
            handle = os.open(
                unfinished,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
                self._file_mode & ~0o002,
            )
            try:
                with os.fdopen(handle, "wb", buffering=0) as file:
                    _copy(body, file.fileno(), size)
                    with suppress(FileNotFoundError):
                        os.fchmod(handle, stat.S_IMODE(path.stat().st_mode) & 0o775)
                    os.fsync(handle)
                unfinished.rename(path)
            except BaseException:
                with suppress(OSError):
                    unfinished.unlink()
                raise
            sync_folder(path.parent)

    def _make_folders(self, folder: Path) -> None:
        # mkdir's own parents=True would use the mode for the last folder only.
        if not folder.exists():
            self._make_folders(folder.parent)
            with suppress(FileExistsError):
                folder.mkdir(mode=self._folder_mode & ~0o002)


def _absolute(location: Location) -> Path:
    path = Path(location.key)
    if not path.is_absolute() or "\0" in location.key:
        raise ArtifactNotFound(
            "not an absolute path", where=str(location), remedy="send file:///path/of/the/file"
        )
    return path


def _copy(body: BinaryIO, handle: int, size: int) -> None:
    left = size
    while left:
        data = memoryview(body.read(min(left, _CHUNK)))
        if not data:
            raise ValueError(f"{size} bytes announced, {size - left} there")
        left -= len(data)
        while data:
            data = data[os.write(handle, data) :]


@contextmanager
def _mapped(location: Location) -> Iterator[None]:
    """OSError as the error of its kind; ``location`` is the address for people."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ArtifactNotFound(
            "is a folder" if isinstance(error, IsADirectoryError) else "no such file",
            where=str(location),
            remedy="does every node see this path?",
        ) from None
    except PermissionError:
        raise ArtifactDenied(
            "permission denied", where=str(location), remedy="check the modes of file and folders"
        ) from None
    except OSError as error:
        raise _trouble(error, location) from None


def _trouble(error: OSError, location: Location) -> StorageError:
    why = error.strerror or type(error).__name__
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskBudgetExceeded(why, where=str(location), remedy="make room, or ask for more")
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL):
        return ArtifactNotFound(why, where=str(location), remedy="correct the path")
    return StoreUnreachable(why, where=str(location), remedy="is the file system in order?")
