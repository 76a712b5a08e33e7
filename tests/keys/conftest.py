"""Time that passes when it is told to."""

from __future__ import annotations

import pytest

from hpcrunner.keys.folder import RESCAN


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def later(self) -> None:
        """So much later that a folder is looked at again."""
        self.now += RESCAN


@pytest.fixture
def clock() -> Clock:
    return Clock()
