"""Immutable artifacts, kept on the node or the cluster for the other jobs of this user.

The experiments of a generation share their code and data. Each job asks the store what an object
is now (its size and ETag, with the request's own keys: nobody gets from here what the store
refuses him); where the cache has that very object, its bytes come from there. Of many jobs that
ask at once, one downloads, and the others wait for it. Below the site's folder::

    artifacts/                  for this user alone
        <name>                  an object: HEADER bytes with its SHA-256 and size, then its bytes
        <name>.lock             held by whoever downloads it (sharedlock.py)
        <name>.<unique>.part    being downloaded; becomes <name> by rename once it is whole

``<name>`` is made of address and ETag, or of the SHA-256 that the client promises by the key
``blobstore/<sha256>.tar``. The bytes are checked while they are unpacked. What was not used for
longest goes when there is too much. Removing a file that somebody reads does no harm (POSIX).

The cache may fail in any way: then the store is asked as if there were none.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from hpcrunner.nodefolders import NodeFolderError, private_folder
from hpcrunner.request.location import Location, promised
from hpcrunner.sharedlock import try_lock
from hpcrunner.storage.contract import Download, Looker, StorageError

FOLDER = "artifacts"
HEADER = 128
LEAST = 256 << 10  # smaller objects come as fast from the store, and would litter the cache
_MAGIC = b"hpcrunner artifact 1"
_PART, _LOCK = ".part", ".lock"
_OURS = re.compile(r"[be]-[0-9a-f]{64}(\.part|\.[0-9a-f]+\.part|\.lock|\.lock\.d.*)?")
_QUIET = 90.0  # a download that has not grown for so long is not waited for any more
_LONGEST_WAIT = 1800.0
_FIRST_LOOK, _LONGEST_LOOK = 0.05, 5.0  # seconds: a thousand jobs may look
_DEAD_PART = 6 * 3600.0
_DEAD_LOCK = 2 * 86400.0


class CacheDamaged(StorageError):
    """What the cache held was not what had been stored; it is removed. Ask the store."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An object as the store has it now; ``promise`` is the SHA-256 that its key promises."""

    name: str
    size: int
    etag: str
    promise: str


class CachedStore:
    """A store behind the cache, for one artifact. ``limit`` bounds the cache's bytes.

    ``outcome`` is ``hit`` or ``miss`` once something was opened, "" where the cache had no part
    in it. ``open`` raises CacheDamaged at its end, after all bytes were given, where they were
    not the right ones; whatever was made of them must go.
    """

    def __init__(
        self, store: Looker, folder: Path, limit: int, pause: Callable[[float], object] = time.sleep
    ) -> None:
        self.outcome = ""
        self._store = store
        self._folder = folder / FOLDER
        self._limit = limit
        self._pause = pause

    @contextmanager
    def open(self, location: Location) -> Iterator[Download]:
        """Read an object from the cache or, on the way into the cache, from the store."""
        wanted = self._look(location)
        with ExitStack() as held:
            cached, ours = None, False
            if wanted is not None:
                with suppress(OSError, NodeFolderError):
                    cached, ours = self._turn(wanted, held)
            if cached is not None and wanted is not None:
                self.outcome = "hit"
                held.callback(cached.close)
                with _checked(cached, self._folder / wanted.name):
                    yield Download(cached, cached.size, wanted.etag)  # type: ignore[arg-type]
                return
            found = held.enter_context(self._store.open(location))
            if wanted is None or not ours or not _same(found, wanted):
                yield found
                return
            self.outcome = "miss"
            tee = _Tee(found.stream, self._begin(wanted))
            held.callback(tee.close)
            yield replace(found, stream=tee)  # type: ignore[arg-type]
            self._keep(wanted, tee)

    def put(self, location: Location, body: BinaryIO, size: int) -> None:
        """Write to the store; the cache holds immutable objects only."""
        self._store.put(location, body, size)

    def _look(self, location: Location) -> _Wanted | None:
        """The object now; None where the cache is of no use, or the store would refuse it."""
        try:
            look = self._store.look(location)
        except StorageError:
            return None
        promise = promised(location)
        if not LEAST <= look.size <= self._limit or not (promise or look.etag):
            return None
        if promise:
            return _Wanted(f"b-{promise}", look.size, look.etag, promise)
        endpoint = re.sub(r"//[^/]*@", "//", location.endpoint)
        words = (location.scheme, endpoint, location.bucket, location.key, look.etag)
        digest = hashlib.sha256("\0".join(words).encode("utf-8", "surrogatepass"))
        return _Wanted(f"e-{digest.hexdigest()}", look.size, look.etag, "")

    def _turn(self, wanted: _Wanted, held: ExitStack) -> tuple[_Cached | None, bool]:
        """What the cache has, or whether it is on us to download. Neither: the wait was too long.

        Raises OSError or NodeFolderError where there can be no cache.
        """
        self._folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        private_folder(self._folder)
        entry = self._folder / wanted.name
        began = grown_at = time.monotonic()
        grown, look = -1, _FIRST_LOOK
        while True:
            if (cached := _opened(entry)) is not None:
                return (cached, False) if cached.size == wanted.size else (None, False)
            lock = ExitStack()
            if lock.enter_context(try_lock(self._folder / f"{wanted.name}{_LOCK}")):
                cached = _opened(entry)  # whoever had the lock may just have finished
                if cached is None:
                    held.callback(lock.close)
                    return None, True
                lock.close()
                continue
            lock.close()
            now = time.monotonic()
            if (there := self._grown(wanted)) != grown:
                grown, grown_at = there, now
            if now - grown_at > _QUIET or now - began > _LONGEST_WAIT:
                return None, False
            self._pause(look)
            look = min(look * 1.5, _LONGEST_LOOK)

    def _grown(self, wanted: _Wanted) -> int:
        """The bytes of this object that others have downloaded by now."""
        size = 0
        for name in os.listdir(self._folder):
            if name.startswith(f"{wanted.name}.") and name.endswith(_PART):
                with suppress(OSError):
                    size += os.stat(self._folder / name).st_size  # noqa: PTH116
        return size

    def _begin(self, wanted: _Wanted) -> Path | None:
        """A new part in a cache with room for it; None where that cannot be."""
        part = self._folder / f"{wanted.name}.{secrets.token_hex(8)}{_PART}"
        try:
            os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            make_room(self._folder, self._limit, HEADER + wanted.size, part.stat().st_mtime)
        except OSError:
            return None
        return part

    def _keep(self, wanted: _Wanted, tee: _Tee) -> None:
        """Give a whole download its name; one that broke its key's promise goes."""
        digest = tee.sha256.hexdigest()
        if tee.size != wanted.size or (wanted.promise and digest != wanted.promise):
            return
        with suppress(OSError):
            entry = self._folder / wanted.name
            tee.finish(_header(digest, tee.size), entry)
            make_room(self._folder, self._limit, 0, entry.stat().st_mtime)


def make_room(folder: Path, limit: int, incoming: int, now: float) -> list[str]:
    """Remove what was not used for longest until ``incoming`` bytes fit; returns the names.

    Also what died half way, by ``now`` of the file system's clock. Only files of ours are looked
    at. Raises OSError where there is no such folder.
    """
    objects, total, removed = [], incoming, []
    for entry in list(os.scandir(folder)):
        if not _OURS.fullmatch(entry.name):
            continue
        with suppress(OSError):
            status = entry.stat(follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                continue
            if entry.name.endswith(_LOCK):
                if status.st_mtime < now - _DEAD_LOCK:
                    os.unlink(entry.path)  # noqa: PTH108
            elif entry.name.endswith(_PART) and status.st_mtime < now - _DEAD_PART:
                os.unlink(entry.path)  # noqa: PTH108
            else:
                total += status.st_size
                if not entry.name.endswith(_PART):
                    objects.append((status.st_mtime, status.st_size, entry.name))
    for _, size, name in sorted(objects):
        if total <= limit:
            break
        with suppress(FileNotFoundError):  # somebody else makes room, too
            (folder / name).unlink()
            removed.append(name)
        total -= size
    return removed


def _same(found: Download, wanted: _Wanted) -> bool:
    return found.size == wanted.size and found.etag == wanted.etag


def _header(sha256: str, size: int) -> bytes:
    return b"%s %s %d\n" % (_MAGIC, sha256.encode("ascii"), size)


def _opened(entry: Path) -> _Cached | None:
    """A whole object of the cache, marked as used; a damaged one is removed. Raises OSError."""
    try:
        handle = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        words = os.pread(handle, HEADER, 0).split(b"\n", 1)[0].rsplit(b" ", 2)
        if len(words) == 3 and words[0] == _MAGIC and words[2].isdigit():
            size = int(words[2])
            if os.fstat(handle).st_size == HEADER + size:
                with suppress(OSError):
                    os.utime(handle)
                os.lseek(handle, HEADER, os.SEEK_SET)
                return _Cached(handle, size, words[1].decode("ascii", "replace"))
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    entry.unlink(missing_ok=True)
    return None


@contextmanager
def _checked(cached: _Cached, entry: Path) -> Iterator[None]:
    """Raise CacheDamaged where what was read, in whole or in part, was not what had been stored.

    Damage may first show as an archive that is refused.
    """
    try:
        yield
    except StorageError:
        if cached.sound():
            raise
    else:
        if cached.sound():
            return
    with suppress(OSError):
        entry.unlink(missing_ok=True)
    raise CacheDamaged("damaged in the cache", where=str(entry), remedy="it is fetched anew")


class _Cached(io.RawIOBase):
    """An object of the cache, from its first byte, hashed while it is read."""

    def __init__(self, handle: int, size: int, sha256: str) -> None:
        super().__init__()
        self.size = size
        self._file = os.fdopen(handle, "rb", buffering=0)
        self._expected = sha256
        self._sha256 = hashlib.sha256()
        self._broken = False

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill part of ``buffer``; 0 at the end. Raises CacheDamaged for an error of the disk."""
        try:
            count = self._file.readinto(buffer)
        except OSError as error:
            self._broken = True
            raise CacheDamaged(f"unreadable in the cache ({error.strerror})") from None
        self._sha256.update(memoryview(buffer)[:count])
        return count

    def sound(self) -> bool:
        """Whether all bytes, those not read yet included, are those that were stored."""
        buffer = bytearray(1 << 20)
        with suppress(CacheDamaged):
            while not self._broken and self.readinto(buffer):
                pass
        return not self._broken and self._sha256.hexdigest() == self._expected

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


class _Tee(io.RawIOBase):
    """Passes a store's bytes on and writes them to a part, for as long as that can be done."""

    def __init__(self, stream: BinaryIO, part: Path | None) -> None:
        super().__init__()
        self.size = 0
        self.sha256 = hashlib.sha256()
        self._stream: Any = stream
        self._part = part
        self._handle = -1
        if part is not None:
            try:
                self._handle = os.open(part, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                os.lseek(self._handle, HEADER, os.SEEK_SET)
            except OSError:
                self._give_up()

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill part of ``buffer``; 0 at the end."""
        count: int = self._stream.readinto(buffer)
        data = memoryview(buffer)[:count]
        self.sha256.update(data)
        self.size += count
        try:
            while data and self._handle >= 0:
                data = data[os.write(self._handle, data) :]
        except OSError:
            self._give_up()
        return count

    def finish(self, header: bytes, entry: Path) -> None:
        """Make the part an entry of the cache. Raises OSError where that fails."""
        if self._part is None or self._handle < 0:
            return
        os.pwrite(self._handle, header.ljust(HEADER, b"\0"), 0)
        handle, self._handle = self._handle, -1
        os.close(handle)  # a network file system may say only now that there was no room
        self._part.rename(entry)
        self._part = None

    def close(self) -> None:
        """Remove the part if it did not become an entry."""
        self._give_up()
        super().close()

    def _give_up(self) -> None:
        handle, self._handle = self._handle, -1
        part, self._part = self._part, None
        with suppress(OSError):
            if handle >= 0:
                os.close(handle)
        with suppress(OSError):
            if part is not None:
                part.unlink(missing_ok=True)
