"""The scheduler's last list of jobs, while it is fresh: one serves all questions of a round."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

_FRESH = 1.0  # s; a round's settling and tracking are closer than that

Row = TypeVar("Row")


class Listing(Generic[Row]):
    """Holds the rows; ``clock`` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rows: list[Row] | None = None
        self._at = 0.0

    def rows(self, ask: Callable[[], list[Row]]) -> list[Row]:
        """The last answer, or a new one. Raises what ``ask`` raises."""
        if self._rows is None or self._clock() - self._at > _FRESH:
            self._rows, self._at = None, self._clock()  # if asking fails, nothing is known
            self._rows = ask()
        return self._rows

    def clear(self) -> None:
        """Something was asked for that changes the answer."""
        self._rows = None
