"""Positions on disk: a small SQLite file of the reporter's own, so that it never keeps the
gateway from its journal.

A crash between a report and its position repeats the report; so does the loss of this file,
for all experiments of which reports are due.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path

from hpcrunner.gateway.reports.position import Position, position_from

log = logging.getLogger(__name__)

_TABLE = "CREATE TABLE IF NOT EXISTS positions (experiment TEXT PRIMARY KEY, position TEXT)"


class Positions:
    """The file at ``path``, made where it is missing, and anew where it is damaged.

    Used from one thread. Methods raise OSError or sqlite3.Error.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._db = _opened(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # locked, or no room: nothing is wrong with what it holds
            log.warning("%s: damaged (%s), begun anew; reports may be repeated", path, error)
            path.unlink()
            self._db = _opened(path)

    def load(self) -> dict[str, Position]:
        """All positions by experiment; one that cannot be read is left out."""
        found: dict[str, Position] = {}
        for experiment, text in self._db.execute("SELECT experiment, position FROM positions"):
            try:
                found[experiment] = position_from(text)
            except (ValueError, TypeError, KeyError):
                log.warning("%s: its position among the reports cannot be read", experiment)
        return found

    def keep(self, changed: Mapping[str, Position], gone: Iterable[str] = ()) -> None:
        """Write these down, and forget those: one transaction."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany(
                "INSERT OR REPLACE INTO positions VALUES (?, ?)",
                [(experiment, position.to_json()) for experiment, position in changed.items()],
            )
            self._db.executemany(
                "DELETE FROM positions WHERE experiment = ?", [(name,) for name in gone]
            )
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _opened(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = TRUNCATE")
    db.execute("PRAGMA synchronous = FULL")
    db.execute(_TABLE)
    return db
