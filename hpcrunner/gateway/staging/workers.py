"""A bounded number of threads that nobody waits for."""

from __future__ import annotations

import logging
import queue
import threading
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

    def close(self) -> None:
        """Begin no more tasks, and let the threads end after what they have in hand."""
        with self._lock:
            self.closed.set()
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
