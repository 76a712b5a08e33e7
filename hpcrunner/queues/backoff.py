"""When to try a server again after it failed."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Exponential pauses with jitter, so that many gateways do not return at one moment.

    ``clock`` is monotonic seconds; ``jitter`` gives a number in [0, 1).
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        first: float = 1.0,
        ceiling: float = 60.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._first = first
        self._ceiling = ceiling
        self._jitter = jitter
        self._pause = first
        self._not_before = float("-inf")

    @property
    def due(self) -> bool:
        """Whether another attempt may be made now."""
        return self._clock() >= self._not_before

    def failed(self, at_least: float = 0.0) -> float:
        """Note a failure; returns the pause in seconds, half of it or more left to chance."""
        pause = max(at_least, self._pause)
        pause *= 0.5 + 0.5 * self._jitter()
        self._pause = min(self._ceiling, self._pause * 2)
        self._not_before = self._clock() + pause
        return pause

    def succeeded(self) -> None:
        """Note a success: the next failure starts again with the shortest pause."""
        self._pause = self._first
        self._not_before = float("-inf")
