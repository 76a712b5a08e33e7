"""The kernel's word on memory: whether it killed a process of this job for taking too much.

Slurm with cgroups puts a job's processes into a memory cgroup of their own. Version 1 counts
kills in ``memory.oom_control`` (Documentation/admin-guide/cgroup-v1/memory.rst), version 2 in
``memory.events`` (cgroup-v2.rst), both on a line ``oom_kill N``. Slurm says OUT_OF_MEMORY of the
same event, but only to those who can ask it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hpcrunner.job.events import size
from hpcrunner.request.scheduler_words import words_of

_COUNTERS = ("memory.events", "memory.oom_control")
_LIMITS = ("memory.max", "memory.limit_in_bytes")
_UNLIMITED = 1 << 60  # version 1 shows a number of pages that no machine has


@dataclass(slots=True)
class MemoryWitness:
    """The job's memory cgroup; ``folder`` None where it has none of its own, or none to read."""

    folder: Path | None
    before: int = 0

    @staticmethod
    def of_this_job(
        environ: Mapping[str, str],
        cgroups: Path = Path("/proc/self/cgroup"),
        root: Path = Path("/sys/fs/cgroup"),
    ) -> MemoryWitness:
        """Begin to watch. What others share with the job's processes says nothing about it."""
        words = words_of(environ)
        own = words.cgroup.format(environ.get(words.job, ""))
        if not own:
            return MemoryWitness(None)
        try:
            paths = memory_cgroups(cgroups.read_text())
        except OSError:
            return MemoryWitness(None)
        for path in paths:
            folder = root / path
            if own in folder.parts:
                count = _kills(folder)
                if count is not None:
                    return MemoryWitness(folder, count)
        return MemoryWitness(None)

    def says(self) -> str | None:
        """One line on what was killed since the beginning; None where nothing was."""
        if self.folder is None or (now := _kills(self.folder)) is None or now <= self.before:
            return None
        count = now - self.before
        what = "a process" if count == 1 else f"{count} processes"
        limit = _limit(self.folder)
        at = "" if limit is None else f" of {size(limit)}"
        return f"out of memory: the kernel killed {what} of it at the job's limit{at}"


def memory_cgroups(text: str) -> tuple[str, ...]:
    """Where the memory cgroup may be, below /sys/fs/cgroup, by /proc/self/cgroup (cgroups(7))."""
    found = []
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        path = path.strip("/")
        if "memory" in controllers.split(","):
            found.append(f"memory/{path}")
        elif not controllers:
            found += [path, f"unified/{path}"]
    return tuple(found)


def oom_kills(text: str) -> int | None:
    """The count in ``memory.oom_control`` or ``memory.events``; None before Linux 4.13."""
    match = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(match[1]) if match else None


def _kills(folder: Path) -> int | None:
    for name in _COUNTERS:
        try:
            return oom_kills((folder / name).read_text())
        except OSError:
            continue
    return None


def _limit(folder: Path) -> int | None:
    """The smallest limit, bytes, from the cgroup up to that of the job."""
    limits = []
    while True:
        for name in _LIMITS:
            try:
                text = (folder / name).read_text().strip()
            except OSError:
                continue
            if text.isdigit() and int(text) < _UNLIMITED:
                limits.append(int(text))
        if folder.name.startswith("job_") or folder == folder.parent:
            return min(limits, default=None)
        folder = folder.parent
