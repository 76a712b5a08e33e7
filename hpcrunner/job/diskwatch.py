"""The disk budget of a payload that runs, for sites that want it enforced."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from hpcrunner.job.events import size
from hpcrunner.job.limits import Stop
from hpcrunner.request.reasons import Reason

EVERY = 60.0
_SHARE = 0.02  # of the time, at most, goes into looking


class DiskWatch:
    """A source of stops: the experiment's folders hold more than ``budget`` bytes.

    Looks once a minute at most, and more seldom the longer a look takes: a payload may have made
    millions of files.
    """

    def __init__(self, folder: Path, budget: int) -> None:
        self._folder = folder
        self._budget = budget
        self._due = 0.0

    def __call__(self) -> Stop | None:
        """The stop, or None."""
        began = time.monotonic()
        if began < self._due:
            return None
        used = disk_used(self._folder)
        took = time.monotonic() - began
        self._due = began + max(EVERY, took / _SHARE)
        if used <= self._budget:
            return None
        asked = "resources_needed.hdd"
        text = f"uses {size(used)} of disk, more than the {size(self._budget)} of its {asked}"
        return Stop(Reason.DISK_BUDGET, text)


def disk_used(folder: Path) -> int:
    """The bytes that files take on disk below a folder: blocks, so that holes are free."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # it vanished meanwhile
                total += os.lstat(f"{path}/{name}").st_blocks * 512
    return total
