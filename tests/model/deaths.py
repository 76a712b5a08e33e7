"""The deaths of the gateway: an exception that nobody catches, at any place between two effects."""

from __future__ import annotations

import re
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

from hpcrunner.gateway import database

PACKAGE = Path(database.__file__).parent.parent


class Crash(BaseException):
    """The gateway's process dies here."""


class Deaths:
    """Counts the places that are passed, and lets the gateway die at the one that was asked for.

    ``at`` is a name, ``within`` how many places from now on; None: it lives.
    """

    def __init__(self) -> None:
        self.at: str | None = None
        self.within: int | None = None
        self.passed: Counter[str] = Counter()
        self._stack = ExitStack()
        for name in crashpoint_modules():
            self._stack.enter_context(
                mock.patch.object(sys.modules[name], "crashpoint", self.boundary)
            )
        real = database.Database.write

        @contextmanager
        def write(file: database.Database) -> Iterator[sqlite3.Connection]:
            with real(file) as connection:
                yield connection
                self.boundary("journal.before_commit")
            self.boundary("journal.committed")

        self._stack.enter_context(mock.patch.object(database.Database, "write", write))

    def close(self) -> None:
        self._stack.close()

    def boundary(self, name: str) -> None:
        """Asked by each place that the code names, each commit of the journal, each command."""
        self.passed[name] += 1
        if self.at == name:
            self.at = None
            raise Crash(name)
        if self.within is not None:
            self.within -= 1
            if self.within <= 0:
                self.within = None
                raise Crash(name)


def crashpoints() -> list[str]:
    """The places that the package names, from its own text: those of the gateway's rounds."""
    found: set[str] = set()
    for path in (PACKAGE / "gateway").glob("*.py"):
        found.update(re.findall(r'crashpoint\("([a-z_.]+)"\)', path.read_text()))
    return sorted(found)


def crashpoint_modules() -> list[str]:
    """Gateway modules with such places, loaded here."""
    return [
        name
        for name, module in list(sys.modules.items())
        if name.startswith("hpcrunner.gateway.") and hasattr(module, "crashpoint")
    ]
