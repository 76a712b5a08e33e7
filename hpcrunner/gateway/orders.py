"""What an operator tells a running gateway: flags that signals raise, a sleep they cut short."""

from __future__ import annotations

import faulthandler
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PIECE = 1024
_SHOW = (signal.SIGUSR1, signal.SIGUSR2)
_STDERR = 2


class Orders:
    """SIGTERM or SIGINT: drain; a second one: end now. SIGHUP: reload the site. SIGUSR1 or
    SIGUSR2: show on stderr where each thread is, at once, also in one that hangs.

    A signal only sets a flag: no step of the gateway is interrupted, whoever works looks here
    between two steps. A pipe wakes a sleeper, since a lock (``threading.Event``) that a signal
    handler asks for may be held by the very code it interrupted.
    """

    def __init__(self) -> None:
        self._ends = 0
        self._reload = False
        self._wakes, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    @property
    def draining(self) -> bool:
        """Take nothing new, finish what is half done."""
        return self._ends > 0

    @property
    def at_once(self) -> bool:
        """End after the step in hand."""
        return self._ends > 1

    def go_on(self) -> bool:
        """True while nothing has been said against more work."""
        return not self.draining

    def end(self) -> None:
        """Drain; said twice, end at once."""
        self._ends += 1

    def reload(self) -> None:
        """Read the site's file again."""
        self._reload = True

    def take_reload(self) -> bool:
        """True once for each time that a reload was asked for."""
        asked, self._reload = self._reload, False
        return asked

    def pause(self, seconds: float) -> None:
        """Sleep so long, or until a signal comes."""
        select.select([self._wakes], [], [], seconds)
        with suppress(BlockingIOError):
            while os.read(self._wakes, _PIECE):
                pass

    @contextmanager
    def listening(self) -> Iterator[Orders]:
        """Take the signals of this process; for its main thread. Left as they were before."""
        handlers = {
            signal.SIGTERM: lambda *_: self.end(),
            signal.SIGINT: lambda *_: self.end(),
            signal.SIGHUP: lambda *_: self.reload(),
        }
        waker = signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        before = {number: signal.signal(number, handlers[number]) for number in handlers}
        for number in _SHOW:
            faulthandler.register(number, file=_STDERR)
        try:
            yield self
        finally:
            for number in _SHOW:
                faulthandler.unregister(number)
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(waker)
