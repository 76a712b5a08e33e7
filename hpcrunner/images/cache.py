"""Images on a file system that jobs share: pulled by one, used by all, bounded.

Below the site's folder::

    images/                     for this user alone
        <key>.json              which file a reference is, and since when
        <key>.<turn>.lock       held by whoever pulls it (sharedlock.py)
        <key>.failed            why the last pull failed
        <sha256>.sif            an image, named by its content; written whole, by rename
        <sha256>.used           its mark (usemark.py)
        pulling/<host>.<pid>.*  a pull's own folder, removed after it

A pull that stands still (its job was suspended) is waited for in vain: after a while the others
take another turn, with a lock of its own. Two pulls of one image waste work and spoil nothing.

``<key>`` is made of the reference, the version at its store, the login, and what is demanded of
it (digest, keys), so that a site that begins to demand signatures begins with an empty cache. An
image that came anew under the same tag is another file; jobs that run keep theirs.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hpcrunner.crashpoint import crashpoint
from hpcrunner.images.bounds import IMAGE, MARK, make_room
from hpcrunner.images.errors import FailedBefore, no_room
from hpcrunner.images.look import sha256_of
from hpcrunner.images.pull import QUIET, Pause, Tell, written_below
from hpcrunner.mounts import says_full
from hpcrunner.nodefolders import expand, private_folder, remove_tree
from hpcrunner.request.faults import Fault, fault_of_reason
from hpcrunner.request.plan import NodeSetup
from hpcrunner.request.reasons import Reason
from hpcrunner.request.units import format_bytes
from hpcrunner.sharedlock import try_lock
from hpcrunner.storage.contract import StorageError
from hpcrunner.sync import replace_synced, sync_folder
from hpcrunner.usemark import clock_of, mark_used
from hpcrunner.wrecks import clear_wrecks, name_for

FOLDER = "images"
_PULLING = "pulling"
_KEY = re.compile(r"[0-9a-f]{64}")
_FIRST_LOOK, _LONGEST_LOOK = 0.1, 5.0  # seconds between two looks while another job pulls
_LOOK_FOR_GROWTH = 60.0
_PATIENCE = QUIET + 300.0  # longer than a pull that lives may stand still
# For how long a failure speaks for those who come after it: shorter than a retry's first pause
# where another attempt may help.
_REMEMBERED, _REMEMBERED_IF_PASSING = 120.0, 20.0
_NOT_AGAIN_BEFORE = 600.0  # after a look at a changing reference that failed
Mark = Callable[[Path], object]
Pull = Callable[[Path], Path]


@dataclass(frozen=True, slots=True)
class Entry:
    """What a reference is in the cache. Times are epoch seconds of the file system's clock."""

    reference: str
    image: str
    pulled: float
    look_again: float = 0.0  # a look that failed is not repeated before then


class ImageCache:
    """The cache in a folder of ours, made if need be; ``limit`` bounds its bytes.

    ``mark`` says that an image is in use: by this process (the default), or for now.
    """

    def __init__(
        self,
        folder: Path,
        limit: int,
        *,
        mark: Mark = mark_used,
        tell: Tell,
        pause: Pause = time.sleep,
    ) -> None:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = private_folder(folder)
        self._limit = limit
        self._mark = mark
        self._tell = tell
        self._pause = pause

    def get(
        self,
        key: str,
        reference: str,
        pull: Pull,
        *,
        refresh: float | None = None,
        anew: bool = False,
    ) -> Path:
        """The image's file: there already, pulled by another job meanwhile, or by us.

        ``pull`` makes it in the folder it is given. What was pulled longer than ``refresh``
        seconds ago is pulled again; if that fails, or another job is at it, the old one serves.
        ``anew`` pulls in any case. Raises the StorageError of ``pull``, also for those who
        waited for it and who come a moment later.
        """
        came, look, waiting = self._now(), _FIRST_LOOK, False
        growth, turn = _Growth(self.folder / _PULLING, key), 1
        while True:
            there, stale = (None, True) if anew else self._there(key, refresh)
            if there is not None and not stale:
                return there
            if not anew:
                self._raise_known(key, came)
            with try_lock(self.folder / f"{key}.{turn}.lock") as taken:
                if taken:
                    there, stale = (None, True) if anew else self._there(key, refresh)
                    if there is not None and not stale:
                        return there
                    if not anew:
                        self._raise_known(key, came)
                    return self._pull(key, reference, pull, there)
            if there is not None:
                return there
            if not waiting:
                waiting = True
                self._tell("waiting", f"image {reference}: another job is pulling it")
            if growth.stopped():
                growth, turn = _Growth(self.folder / _PULLING, key), turn + 1
            self._pause(look)
            look = min(look * 1.5, _LONGEST_LOOK)

    def _there(self, key: str, refresh: float | None) -> tuple[Path | None, bool]:
        """The image, marked as used, and whether it is to be looked up again."""
        entry = _read_entry(self.folder / f"{key}.json")
        if entry is None:
            return None, True
        image = self.folder / entry.image
        # What went is not marked: a mark is held for as long as its process lives.
        if not image.exists():
            return None, True
        with suppress(OSError):  # a full disk has no room for a mark
            self._mark(image.with_suffix(MARK))  # before it is looked for: see bounds.py
        if not image.exists():
            return None, True
        now = self._now()
        stale = refresh is not None and now - entry.pulled > refresh and now > entry.look_again
        return image, stale

    def _raise_known(self, key: str, came: float) -> None:
        """What another job met while we waited, or just before."""
        try:
            raw = json.loads((self.folder / f"{key}.failed").read_bytes())
            line, reason, at = str(raw["line"]), Reason(raw["reason"]), float(raw["at"])
        except (OSError, ValueError, KeyError, TypeError):
            return
        passing = fault_of_reason(reason) is Fault.INFRASTRUCTURE
        kept = _REMEMBERED_IF_PASSING if passing else _REMEMBERED
        if at >= came or self._now() - at < kept:
            raise FailedBefore(line, reason)

    def _pull(self, key: str, reference: str, pull: Pull, old: Path | None) -> Path:
        began = time.monotonic()
        self._tell("pulling", f"image {reference}: pulling")
        try:
            try:
                with self._scratch(key) as scratch:
                    image, size = self._keep(pull(scratch))
                crashpoint("images.kept")
                now = self._now()
                replace_synced(
                    self.folder / f"{key}.json", _as_json(Entry(reference, image.name, now))
                )
            except OSError as error:
                if says_full(error) or error.errno == errno.EFBIG:
                    raise no_room(reference, self.folder) from None
                raise
        except StorageError as error:
            if old is not None:
                self._tell("image_kept", f"the image pulled before is used: {error.line()}")
                self._put_off(key)
                return old
            said = {"line": error.line(), "reason": error.reason.value, "at": self._now()}
            with suppress(OSError):
                replace_synced(self.folder / f"{key}.failed", json.dumps(said))
            raise
        took = time.monotonic() - began
        self._tell("pulled", f"image {reference}: {format_bytes(size)} in {took:.1f} s")
        with suppress(OSError):
            (self.folder / f"{key}.failed").unlink(missing_ok=True)
            make_room(self.folder, self._limit, now)
        return image

    def _keep(self, file: Path) -> tuple[Path, int]:
        """Give a whole image its name, on disk."""
        digest = sha256_of(file)
        image = self.folder / f"{digest}{IMAGE}"
        self._mark(image.with_suffix(MARK))
        size = file.stat().st_size
        file.chmod(0o500)
        with file.open("rb") as written:
            os.fsync(written.fileno())
        crashpoint("images.pulled")
        if image.exists() and image.stat().st_size == size:
            file.unlink()  # jobs on other nodes may have it open, and would lose it on NFS
        else:
            file.rename(image)
        sync_folder(self.folder)
        return image, size

    def _put_off(self, key: str) -> None:
        path = self.folder / f"{key}.json"
        entry = _read_entry(path)
        if entry is not None:
            later = self._now() + _NOT_AGAIN_BEFORE
            with suppress(OSError):
                replace_synced(
                    path, _as_json(Entry(entry.reference, entry.image, entry.pulled, later))
                )

    @contextmanager
    def _scratch(self, key: str) -> Iterator[Path]:
        """A folder of one pull, removed after it; those of dead pulls go with it."""
        parent = private_folder(self.folder / _PULLING)
        clear_wrecks(parent, self._now())
        scratch = parent / name_for(f"{key}-{secrets.token_hex(4)}")
        scratch.mkdir(mode=0o700)
        try:
            yield scratch
        finally:
            with suppress(OSError):
                remove_tree(scratch)

    def _now(self) -> float:
        try:
            return clock_of(self.folder)
        except OSError:
            return time.time()  # a full disk


class _Growth:
    """Whether the pulls of a key go on, as far as one who waits can see."""

    def __init__(self, pulling: Path, key: str) -> None:
        self._pulling = pulling
        self._key = key
        self._bytes = -1
        self._grown_at = self._looked_at = time.monotonic()

    def stopped(self) -> bool:
        """Whether nothing has come for long. Cheap but for once a minute."""
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_FOR_GROWTH:
            self._looked_at = now
            there = sum(map(written_below, self._pulling.glob(f"*.{self._key}-*")))
            if there != self._bytes:
                self._bytes, self._grown_at = there, now
        return now - self._grown_at > _PATIENCE


def images_folder(node: NodeSetup, environ: Mapping[str, str]) -> Path:
    """Where the site's images lie on this machine. Raises NodeFolderError."""
    folder = expand(node.images.cache or node.cache, environ, what="container.cache")
    return folder / FOLDER


def cached_images(folder: Path) -> list[Entry]:
    """The images that are there, by reference."""
    found = []
    for path in folder.glob("*.json"):
        entry = _read_entry(path)
        if entry is not None and (folder / entry.image).exists():
            found.append(entry)
    return sorted(found, key=lambda entry: entry.reference)


def key_of(*words: str) -> str:
    """The name of an entry: the same for all that would pull the same."""
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogatepass")).hexdigest()


def _read_entry(path: Path) -> Entry | None:
    try:
        raw = json.loads(path.read_bytes())
        entry = Entry(
            str(raw["reference"]),
            str(raw["image"]),
            float(raw["pulled"]),
            float(raw.get("look_again", 0.0)),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return entry if _KEY.fullmatch(entry.image.removesuffix(IMAGE)) else None


def _as_json(entry: Entry) -> str:
    return json.dumps(
        {
            "reference": entry.reference,
            "image": entry.image,
            "pulled": entry.pulled,
            "look_again": entry.look_again,
        }
    )
