"""The journal's file: opened, brought up to date, written under a fence, its faults named.

SQLite with a rollback journal and full sync: a write-ahead log needs shared memory, which
network file systems do not give (https://www.sqlite.org/wal.html). One writer, the gateway;
the command line reads.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway import schema

_LOCK_PATIENCE = 10.0
_MAKING = 5.0
# The texts of SQLITE_CORRUPT and SQLITE_NOTADB: sqlite3 names the codes from Python 3.11 only.
_DAMAGED = ("malformed", "not a database", "no such table", "no such column")


class JournalError(HpcrunnerError):
    """The journal cannot be opened, read or written.

    ``passing`` is True where it may work later (no room, a lock, a read-only mount), False
    where a person has to do something first (damage, another version).
    """

    exit_code = 74  # EX_IOERR

    def __init__(
        self, what: str, *, where: str = "", remedy: str = "", passing: bool = False
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.passing = passing


class JournalUnfit(JournalError):
    """The journal is damaged, or of a version that this hpcrunner does not read: a start that is
    tried again meets the same.
    """

    exit_code = 65  # EX_DATAERR


class Superseded(JournalError):
    """Another gateway has taken this spool over since: nothing may be written any more."""

    exit_code = 75  # EX_TEMPFAIL


class Database:
    """One connection to the journal's file. Raises JournalError with what to do about it."""

    def __init__(self, path: Path, *, make: bool) -> None:
        """Open the file; with ``make``, create it where it is missing (0600), and bring one of
        an older version up to date.
        """
        self._path = path
        self._generation: int | None = None
        try:
            self._db = self._made(path) if make else _for_looking(path)
            found = schema.version_of(self._db)
        except (OSError, sqlite3.Error) as error:
            raise self._fault(error) from error
        if found != schema.SCHEMA_VERSION:
            self._db.close()
            older = found < schema.SCHEMA_VERSION
            raise JournalUnfit(
                f"version {found}, this hpcrunner reads {schema.SCHEMA_VERSION}",
                where=f"journal {path}",
                remedy="start the gateway once: it brings the journal up to date"
                if older
                else "run the version of hpcrunner that wrote it, or a newer one",
            )

    @staticmethod
    def _made(path: Path) -> sqlite3.Connection:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        db = sqlite3.connect(path, timeout=_LOCK_PATIENCE, isolation_level=None)
        db.execute("PRAGMA journal_mode = TRUNCATE")
        db.execute("PRAGMA synchronous = FULL")
        # Messages hold credentials: what is removed is overwritten, not only set free.
        db.execute("PRAGMA secure_delete = ON")
        schema.bring_up_to_date(db)
        return db

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def take_over(self, host: str, pid: int, now: float) -> None:
        """Become the one writer: every older one is refused from here on (Superseded)."""
        with self.write() as db:
            self._generation = db.execute(
                "INSERT INTO gateways (host, pid, since) VALUES (?, ?, ?) RETURNING generation",
                (host, pid, now),
            ).fetchone()[0]

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: synced when the context ends well, undone when it does not."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._check_fence()
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself where the disk was full.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise self._fault(error) from error

    def read(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._fault(error) from error

    def compact(self) -> None:
        """Write the file anew without its free pages (``VACUUM``). Raises JournalError."""
        self.read("VACUUM")

    def check(self) -> None:
        """Look the whole file over (``PRAGMA quick_check``). Raises JournalError on damage."""
        found = str(self.read("PRAGMA quick_check(1)")[0][0])
        if found != "ok":
            raise self._fault(sqlite3.DatabaseError(f"malformed: {' '.join(found.split())}"))

    def _check_fence(self) -> None:
        if self._generation is None:
            return
        row = self._db.execute(
            "SELECT generation, host, pid FROM gateways ORDER BY generation DESC LIMIT 1"
        ).fetchone()
        if row is None or row[0] != self._generation:
            by = f"by a gateway on {row[1]}, process {row[2]}" if row else "by another journal"
            raise Superseded(
                f"was taken over {by}",
                where=f"journal {self._path}",
                remedy="this one stops; look at the other with 'hpcrunner status'",
            )

    def _fault(self, error: Exception) -> JournalError:
        where = f"journal {self._path}"
        if any(word in str(error) for word in _DAMAGED):
            return JournalUnfit(
                f"is damaged ({error})",
                where=where,
                remedy="restore it from a backup, or move it away and lose what it knows: see "
                "docs/operating.md",
            )
        return JournalError(
            f"cannot be used ({error})",
            where=where,
            remedy="check room, quota and permissions of the spool's file system",
            # Anything else that SQLite refuses is a fault of ours, which no waiting mends.
            passing=isinstance(error, OSError | sqlite3.OperationalError),
        )


def _for_looking(path: Path) -> sqlite3.Connection:
    """A connection that changes nothing, but for what a crashed writer has left to undo."""
    try:
        os.close(os.open(path, os.O_RDWR))
        mode = "rw"
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
        mode = "ro"
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    db = sqlite3.connect(uri, uri=True, timeout=_LOCK_PATIENCE, isolation_level=None)
    db.execute("PRAGMA query_only = ON")
    # A gateway that starts for the first time makes the file, and then all that is in it.
    until = time.monotonic() + _MAKING
    while schema.version_of(db) == 0 and time.monotonic() < until:
        time.sleep(0.05)
    return db
