"""A bounded number of threads that nobody waits for."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable

log = logging.getLogger(__name__)

Task = Callable[[], None]
_MOST_LOST = 64  # threads that are written off, at one time


class Workers:
    """Runs tasks on at most ``most`` threads, in the order given; threads begin when needed.

    Of the tasks for one and the same ``place`` (a store) at most ``most_of_one`` run at once (None:
    one less than of all), so that a place which does not answer holds up none of the others.
    Threads are daemons: a store that hangs keeps nobody from ending.
    """

    def __init__(self, name: str, most: int, most_of_one: int | None = None) -> None:
        self._name = name
        self._most = most
        self._most_of_one = max(most - 1, 1) if most_of_one is None else most_of_one
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)
        self._tasks: deque[tuple[str, Task]] = deque()
        self._running: Counter[str] = Counter()  # by place
        self._threads: dict[int, str] = {}  # the place that each is at; "" also for none
        self._idle = 0
        self._starting = 0
        self._lost: set[int] = set()
        self._later: list[tuple[float, int, Task, str]] = []
        self._order = itertools.count()
        self._clock: threading.Timer | None = None  # one, however many tasks wait for a time
        self.closed = threading.Event()

    def give(self, task: Task, place: str = "") -> None:
        """Have a task run; not after ``close``. Those without a place count for none."""
        with self._lock:
            if self.closed.is_set():
                return
            self._tasks.append((place, task))
            # Where its place is full, whoever leaves it looks for the next one anyway.
            if self._has_room(place):
                self._wake()

    def give_later(self, seconds: float, task: Task, place: str = "") -> None:
        """Give a task after a while."""
        with self._lock:
            entry = (time.monotonic() + seconds, next(self._order), task, place)
            heapq.heappush(self._later, entry)
            self._wind()

    def write_off(self, thread: int) -> None:
        """Count a thread no more, whose task does not come back: another may do the rest.

        ``thread`` is its identity (threading.get_ident). In vain where there are too many already.
        """
        with self._lock:
            if thread in self._threads and len(self._lost) < _MOST_LOST:
                self._running[self._threads.pop(thread)] -= 1
                self._lost.add(thread)
                self._wake()

    def close(self) -> None:
        """Begin no more tasks, and let the threads end after what they have in hand."""
        with self._lock:
            self.closed.set()
            self._later.clear()
            self._tasks.clear()
            if self._clock is not None:
                self._clock.cancel()
            self._news.notify_all()

    def _has_room(self, place: str) -> bool:
        return not place or self._running[place] < self._most_of_one

    def _wake(self) -> None:
        """Have somebody look for a task. The lock is held."""
        if self._idle:
            self._idle -= 1  # here, lest the next task counts on the same one
            self._news.notify()
        elif len(self._threads) + self._starting < self._most:
            self._starting += 1
            threading.Thread(target=self._work, name=self._name, daemon=True).start()

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
                due.append(heapq.heappop(self._later)[2:])
            self._wind()
        for task, place in due:
            self.give(task, place)

    def _work(self) -> None:
        me = threading.get_ident()
        with self._lock:
            self._starting -= 1
            self._threads[me] = ""
        while (task := self._next(me)) is not None:
            try:
                task()
            except Exception:
                log.exception("a fault in a thread of %s", self._name)
            with self._lock:
                if me in self._lost:
                    self._lost.discard(me)
                    return
                self._running[self._threads[me]] -= 1
                self._threads[me] = ""

    def _next(self, me: int) -> Task | None:
        """The first task whose turn it can be, waiting for one; None where there will be none."""
        with self._lock:
            while not self.closed.is_set():
                for number, (place, task) in enumerate(self._tasks):
                    if self._has_room(place):
                        del self._tasks[number]
                        self._running[place] += 1
                        self._threads[me] = place
                        return task
                self._idle += 1
                self._news.wait()
            return None
