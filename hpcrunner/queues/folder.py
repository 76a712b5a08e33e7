"""One directory queue: which of its files are messages, and whole."""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from hpcrunner.queues.softlock import LOCK_NAME, QueueLock

QUIET_SECONDS = 0.2
EMPTY_SECONDS = 60.0
_MARKERS = ("is_active.queue",)  # made by clients up to 0.0.44
_UNFINISHED = (".tmp", ".part", "~")

Stamp = tuple[int, int]
"""A file's size and mtime (ns): a change shows that somebody still writes."""


class QueueFolder:
    """The waiting messages of one queue folder, oldest first.

    ``scratch`` is the gateway's private folder beside the queues.
    ``clock`` is epoch seconds and ``monotonic`` a steady clock.
    """

    def __init__(
        self,
        path: Path,
        scratch: Path,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.lock = QueueLock(path, scratch, clock=clock, monotonic=monotonic)
        self.waiting: deque[tuple[str, Stamp]] = deque()
        self._clock = clock
        self._monotonic = monotonic
        self._restless: dict[str, tuple[Stamp, float]] = {}

    def scan(self) -> None:
        """Fill ``waiting`` if it is used up. Raises OSError.

        Newer messages only ever go behind older ones, so a listing may be worked off before
        the next is made: a folder of ten thousand messages is not read again for each group.
        """
        if self.waiting:
            return
        found: list[tuple[int, str, Stamp]] = []
        restless: dict[str, tuple[Stamp, float]] = {}
        with os.scandir(self.path) as entries:
            for entry in entries:
                if not _may_be_message(entry.name):
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if not stat.S_ISREG(status.st_mode):
                    continue
                stamp = (status.st_size, status.st_mtime_ns)
                if self._quiet(entry.name, stamp, restless):
                    found.append((status.st_mtime_ns, entry.name, stamp))
        self._restless = restless
        self.waiting.extend((name, stamp) for _, name, stamp in sorted(found))

    def _quiet(self, name: str, stamp: Stamp, restless: dict[str, tuple[Stamp, float]]) -> bool:
        # An empty file is most likely one just opened for writing.
        needed = QUIET_SECONDS if stamp[0] else EMPTY_SECONDS
        if self._clock() - stamp[1] / 1e9 >= needed:
            return True
        # The file server's clock may be ahead of ours: what we watched ourselves counts too.
        now = self._monotonic()
        before = self._restless.get(name)
        since = before[1] if before is not None and before[0] == stamp else now
        restless[name] = (stamp, since)
        return now - since >= needed


def _may_be_message(name: str) -> bool:
    return not (name.startswith((".", LOCK_NAME)) or name in _MARKERS or name.endswith(_UNFINISHED))
