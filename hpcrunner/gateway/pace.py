"""How often: a token bucket for submissions, and an adaptive period for queries."""

from __future__ import annotations

from collections.abc import Callable


class SubmitRate:
    """At most ``count`` submissions in any ``seconds``, smoothly refilled (a token bucket)."""

    def __init__(self, count: int, seconds: float, clock: Callable[[], float]) -> None:
        self._count = float(count)
        self._per_second = count / seconds
        self._clock = clock
        self._tokens = float(count)
        self._at = clock()

    def take(self) -> bool:
        """Take one submission's turn, or say that it is not due yet."""
        now = self._clock()
        self._tokens = min(self._count, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def wait(self) -> float:
        """Seconds until the next turn is due."""
        return max(0.0, (1.0 - self._tokens) / self._per_second)


class Period:
    """The pause between two queries: short after news, longer in quiet, never a burden.

    Between ``floor`` and ``ceiling`` seconds, and at least ten times what the last query took,
    so that a slow controller is asked less.
    """

    def __init__(self, floor: float, ceiling: float) -> None:
        self._floor = floor
        self._ceiling = ceiling
        self.seconds = floor

    def after(self, *, took: float, news: bool) -> None:
        """Settle the next pause from how long the query took and whether it told anything new."""
        calm = self._floor if news else self.seconds * 1.5
        self.seconds = min(self._ceiling, max(self._floor, calm, 10.0 * took))

    def soon(self) -> None:
        """Something was done that will change states: back to the floor."""
        self.seconds = self._floor


class Setbacks:
    """The pause before a disk that failed is tried again: longer each time, a minute at most."""

    def __init__(self, first: float = 1.0, longest: float = 60.0) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def pause(self) -> float:
        """Seconds to wait after another failure."""
        now, self._next = self._next, min(self._longest, self._next * 2)
        return now

    def over(self) -> None:
        """It worked: the next failure starts again with the shortest pause."""
        self._next = self._first
