"""Who may stop an attempt: signals, deadlines and other threads, brought to the main thread.

Before the payload runs, a stop breaks into whatever the main thread is doing (StopAsked).
While the payload runs, it ends a ``wait``. The first stop gives the reason; it never changes.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from hpcrunner.job.events import say
from hpcrunner.job.limits import Deadline, Stop, killed_at, meaning
from hpcrunner.request.plan import NodeSetup
from hpcrunner.request.scheduler_words import NO_SCHEDULER, SchedulerWords

_FROM_OUTSIDE = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
_LONGEST_ALARM = 30 * 86400.0


class StopAsked(BaseException):
    """A stop broke in. Like KeyboardInterrupt, it is no Exception: nothing may swallow it."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop.text)
        self.stop = stop


class Stopper:
    """Holds the first stop. ``end`` is when the scheduler will kill the job, where known.

    ``kill`` is the same by the last that is known, and ``told_at`` when a signal told it.
    ``terminated``: SIGTERM has come. Must be made on the main thread; there is one in a process,
    since signals are.
    """

    def __init__(
        self,
        end: float | None,
        setup: NodeSetup,
        clock: Callable[[], float] = time.time,
        words: SchedulerWords = NO_SCHEDULER,
    ) -> None:
        self.asked: Stop | None = None
        self.kill = end
        self.told_at: float | None = None
        self.terminated = False
        self._end = end
        self._setup = setup
        self._words = words
        self._clock = clock
        self._deadlines: list[Deadline] = []
        self._breaks_in = False
        self._read, self._write = os.pipe()
        for fd in (self._read, self._write):
            os.set_blocking(fd, False)
        # Python writes a byte there for each signal: no signal is lost between look and wait.
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for signum in {*_FROM_OUTSIDE, *words.warnings} - words.ignored:
            signal.signal(signum, self._on_signal)
        for signum in words.ignored:  # by all that we start, too
            signal.signal(signum, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, self._on_alarm)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def ask(self, stop: Stop) -> None:
        """Ask for a stop, from any thread."""
        if self.asked is None:
            self.asked = stop
        with suppress(BlockingIOError):  # the pipe is full of wake-ups already
            os.write(self._write, b"\0")

    def add(self, deadline: Deadline) -> None:
        """Stop at that time, if nothing stops earlier."""
        self._deadlines.append(deadline)
        self._on_alarm(signal.SIGALRM, None)

    @contextmanager
    def breaking_in(self) -> Iterator[None]:
        """Within this context a stop raises StopAsked on the main thread."""
        self._breaks_in = True
        try:
            self._break_in()
            yield
        finally:
            self._breaks_in = False

    def wait(self, timeout: float | None = None) -> None:
        """Sleep until a signal (an ended child too), a stop, or the timeout."""
        if select.select([self._read], [], [], timeout)[0]:
            os.read(self._read, 4096)

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        now = self._clock()
        stop = meaning(signum, now, self._end, self._setup.grace, self._words)
        if stop is None:
            say(f"{signal.Signals(signum).name} announces the job's time limit")
            return
        if not self.terminated:
            self.kill = killed_at(signum, now, self._end, self._setup, self._words)
            self.told_at = now
        self.terminated |= signum == signal.SIGTERM
        self.ask(stop)
        self._break_in()

    def _on_alarm(self, _signum: int, _frame: FrameType | None) -> None:
        first = min(self._deadlines, key=lambda deadline: deadline.at, default=None)
        if first is None:
            return
        left = first.at - self._clock()
        if left <= 0:
            self.ask(first.stop)
            self._break_in()
        else:
            signal.setitimer(signal.ITIMER_REAL, min(left, _LONGEST_ALARM))

    def _break_in(self) -> None:
        if self._breaks_in and self.asked is not None:
            self._breaks_in = False  # once: what follows must be able to clean up
            raise StopAsked(self.asked)
