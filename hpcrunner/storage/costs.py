"""What unpacking an archive may cost, since a few compressed kilobytes can ask for anything."""

from __future__ import annotations

from hpcrunner.request.units import format_bytes
from hpcrunner.storage.contract import ArchiveRefused, DiskBudgetExceeded

MOST_MEMBERS = 1_000_000
MOST_NAMES = 128 << 20  # bytes of names that must be remembered to the end
MOST_STEPS = 20_000_000  # folders opened and links followed


class Costs:
    """Counts ``bytes`` against ``budget`` (None: none), and ``members``; ``where`` is for errors.

    Methods raise ArchiveRefused or DiskBudgetExceeded.
    """

    def __init__(self, budget: int | None, where: str) -> None:
        self._where = where
        self.bytes = 0
        self.members = 0
        self._budget = budget
        self._names = 0
        self._steps = 0

    def spend(self, count: int) -> None:
        """Count bytes before they are written."""
        self.bytes += count
        if self._budget is not None and self.bytes > self._budget:
            raise DiskBudgetExceeded(
                f"needs more than the {format_bytes(self._budget)} of disk it may use",
                where=self._where,
                remedy="ask for more with resources_needed.hdd",
            )

    def member(self) -> None:
        """One more file, folder or link."""
        self.members += 1
        if self.members > MOST_MEMBERS:
            raise ArchiveRefused(
                f"more than {MOST_MEMBERS} members",
                where=self._where,
                remedy="pack many small files into fewer large ones",
            )

    def name(self, name: str) -> None:
        """One more name that is kept in memory."""
        self._names += len(name) + 100
        if self._names > MOST_NAMES:
            raise self._refused("more names of folders and links than can be remembered")

    def step(self) -> None:
        """One folder opened, or one link followed."""
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise self._refused("folders and links nested beyond all measure")

    def _refused(self, what: str) -> ArchiveRefused:
        return ArchiveRefused(what, where=self._where, remedy="pack it again without that member")
