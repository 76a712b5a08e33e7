"""A bounded number of threads that nobody waits for."""

from __future__ import annotations

import heapq
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

Task = Callable[[], None]


class Workers:
    """Runs tasks on at most ``most`` threads, in the order given; threads begin when needed.

    They are daemons: a store that hangs keeps nobody from ending.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._left = 0  # given and not finished
        self._later: list[tuple[float, int, Task]] = []
        self._order = itertools.count()
        self._clock: threading.Timer | None = None  # one, however many tasks wait for a time
        self.closed = threading.Event()

    def give(self, task: Task) -> None:
        """Have a task run; not after ``close``."""
        with self._lock:
            if self.closed.is_set():
                return
            self._left += 1
            self._tasks.put(task)
            if self._threads < min(self._most, self._left):
                self._threads += 1
                threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def give_later(self, seconds: float, task: Task) -> None:
        """Give a task after a while."""
        with self._lock:
            heapq.heappush(self._later, (time.monotonic() + seconds, next(self._order), task))
            self._wind()

    def _wind(self) -> None:
        """Have the clock strike for the first of them. The lock is held."""
        if self._clock is not None or not self._later or self.closed.is_set():
            return
        self._clock = threading.Timer(max(0.0, self._later[0][0] - time.monotonic()), self._strike)
        self._clock.daemon = True
        self._clock.start()

    def _strike(self) -> None:
        due = []
        with self._lock:
            self._clock = None
            while self._later and self._later[0][0] <= time.monotonic():
                due.append(heapq.heappop(self._later)[2])
            self._wind()
        for task in due:
            self.give(task)

    def close(self) -> None:
        """Begin no more tasks, and let the threads end after what they have in hand."""
        with self._lock:
            self.closed.set()
            self._later.clear()
            if self._clock is not None:
                self._clock.cancel()
            for _ in range(self._threads):
                self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if not self.closed.is_set():
                try:
                    task()
                except Exception:
                    log.exception("a fault in a thread of %s", self._name)
            with self._lock:
                self._left -= 1
