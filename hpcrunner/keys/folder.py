"""A folder of public keys, one file for a queue or for all queues whose names begin so."""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from hpcrunner.errors import HpcrunnerError
from hpcrunner.keys.keyfile import NO_STAMP, Found, Stamp, find, read_public
from hpcrunner.notices import Notices
from hpcrunner.request.errors import KeyInvalid, shown

log = logging.getLogger(__name__)

RESCAN = 10.0  # seconds
MOST_FILES = 10_000
_PLACEHOLDER = "info"  # what Kubernetes installations of StudioML put into empty folders

# What says that the folder is not ours to read; else it is the file system that is in trouble.
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP})

T = TypeVar("T")


class NoKey(HpcrunnerError):
    """There is no key for this queue, or the one there is cannot be used."""

    exit_code = 78  # EX_CONFIG


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    stamp: Stamp
    key: T | None  # None for a file that is no key
    trouble: str = ""


class KeyFolder(Generic[T]):
    """The keys of one folder, by file name. Files come, change and go while it is used.

    A queue's key is in the file of its name, else in the one with the longest name that the
    queue's begins with. A file that cannot be used still stands for its queues: no shorter name
    takes its place. Left out are dot files, folders, and files ``info`` that hold no key.
    """

    def __init__(
        self,
        folder: Path,
        parse: Callable[[bytes], T],
        option: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._parse = parse
        self._option = option
        self._clock = clock
        self._entries: dict[str, _Entry[T]] = {}
        self._scan_at = float("-inf")
        self._notices = Notices(log)

    def refresh(self) -> None:
        """Look at the folder again where the last look is ten seconds old. Raises nothing."""
        now = self._clock()
        if now < self._scan_at:
            return
        self._scan_at = now + RESCAN
        try:
            found = self._found()
        except OSError as error:
            if error.errno in _NOT_THERE:
                self._entries = {}
            self._notices.warn(
                "folder", f"{self._option} {self._folder}: {error.strerror}; it is looked at again"
            )
            return
        except KeyInvalid as error:
            self._entries = {}
            self._notices.warn("folder", f"{self._option} {error.line()}")
            return
        self._notices.over("folder", f"{self._option} {self._folder}: can be read")
        for name in self._entries.keys() - found.keys():
            log.info("%s %s is gone", self._option, name)
            self._notices.over(("file", name))
        entries = {name: self._entry(name, file) for name, file in found.items()}
        self._entries = {
            name: entry
            for name, entry in entries.items()
            if entry.key is not None or name != _PLACEHOLDER
        }

    def listed(self) -> list[tuple[str, T | None, str]]:
        """Every file by name: its key, or None and why it cannot be used."""
        return [(name, entry.key, entry.trouble) for name, entry in sorted(self._entries.items())]

    def choose(self, queue: str) -> T:
        """The key for the queue of this name. Raises NoKey."""
        names = [name for name in self._entries if queue.startswith(name)]
        if not names:
            raise NoKey(
                f"no key for the queue {shown(queue)}",
                where=f"{self._option} {self._folder}",
                remedy="add a file named as the queue, or as its name begins",
            )
        name = max(names, key=len)
        entry = self._entries[name]
        if entry.key is None:
            raise NoKey(
                f"the key for the queue {shown(queue)} cannot be used: {entry.trouble}",
                where=f"{self._option} {self._folder}",
                remedy=f"mend or remove {name}",
            )
        return entry.key

    def _found(self) -> dict[str, Found]:
        if self._folder.stat().st_mode & stat.S_IWOTH:
            raise KeyInvalid("everybody can write it", where=str(self._folder), remedy="chmod o-w")
        names = [name for name in os.listdir(self._folder) if not name.startswith(".")]
        if len(names) > MOST_FILES:
            raise KeyInvalid(
                f"more than {MOST_FILES} files", where=str(self._folder), remedy="use prefixes"
            )
        found: dict[str, Found] = {}
        for name in names:
            path = self._folder / name
            try:
                file = find(path)
            except OSError:
                file = Found(path, NO_STAMP)  # reading it will say why
            if file is not None:
                found[name] = file
        return found

    def _entry(self, name: str, file: Found) -> _Entry[T]:
        known = self._entries.get(name)
        if known is not None and known.stamp == file.stamp != NO_STAMP:
            return known
        entry: _Entry[T]
        try:
            entry = _Entry(file.stamp, self._parse(read_public(file.path)))
        except KeyInvalid as error:
            entry = _Entry(file.stamp, None, error.line())
        except OSError as error:
            entry = _Entry(NO_STAMP, None, str(error.strerror))
        if entry.key is not None:
            self._notices.over(("file", name))
            # No colon: to whoever redacts a log, the option's name looks like a secret's.
            log.info("%s %s is %s", self._option, name, "read again" if known else "read")
        elif name != _PLACEHOLDER:
            self._notices.warn(("file", name), f"{self._option} {file.path}: {entry.trouble}")
        return entry
