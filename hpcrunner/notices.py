"""Lasting troubles said once: a log line when one begins or changes, one when it is over."""

from __future__ import annotations

import logging
from collections.abc import Hashable


class Notices:
    """Remembers which troubles were already logged, so that a loop does not repeat them."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._said: dict[Hashable, str] = {}

    def warn(self, about: Hashable, text: str) -> None:
        """Log ``text`` unless it is what was last said ``about`` this."""
        if self._said.get(about) != text:
            self._said[about] = text
            self._logger.warning("%s", text)

    def info(self, about: Hashable, text: str) -> None:
        """The same for what is no trouble, but worth a line."""
        if self._said.get(about) != text:
            self._said[about] = text
            self._logger.info("%s", text)

    def over(self, about: Hashable, text: str = "") -> None:
        """Forget this trouble; log ``text`` if there was one."""
        if self._said.pop(about, None) is not None and text:
            self._logger.info("%s", text)
