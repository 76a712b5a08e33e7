"""Counters whose label sets come and go with queues and experiments, without end."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

KEPT = 3600.0  # seconds after its last change: any scraper has come by until then
MOST = 2000

Labels = tuple[str, ...]


class Fading:
    """Counts by label values. What has not changed for an hour is forgotten, and the oldest of
    too many. Safe from any thread. ``clock`` is a steady clock in seconds.
    """

    def __init__(self, clock: Callable[[], float], *, kept: float = KEPT, most: int = MOST) -> None:
        self._clock = clock
        self._kept = kept
        self._most = most
        self._lock = threading.Lock()
        self._counts: OrderedDict[Labels, tuple[float, int]] = OrderedDict()

    def add(self, labels: Labels, count: int = 1) -> None:
        """Count one more; with 0, show it as there."""
        with self._lock:
            _, before = self._counts.pop(labels, (0.0, 0))
            self._counts[labels] = (self._clock(), before + count)
            if len(self._counts) > self._most:
                self._counts.popitem(last=False)

    def items(self) -> list[tuple[Labels, int]]:
        """All that is remembered, the longest unchanged first."""
        with self._lock:
            while self._counts:
                labels, (changed, _) = next(iter(self._counts.items()))
                if self._clock() - changed <= self._kept:
                    break
                del self._counts[labels]
            return [(labels, count) for labels, (_, count) in self._counts.items()]
