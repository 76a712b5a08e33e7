"""The journal's side of retention: how old its rows are, and forgetting them.

Every statement says for itself that it touches final, settled experiments only.
"""

# ruff: noqa: S608 - the pieces of the statements are constants of this module
from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from hpcrunner.gateway.database import Database
from hpcrunner.gateway.experiment import FINAL, State
from hpcrunner.gateway.retention import Trace

_FINAL = f"state IN ({', '.join(repr(s.value) for s in sorted(FINAL))})"
_TRACE = (
    "SELECT e.rowid, e.id, e.state, e.settled, e.aside, length(e.message), e.ended_at, e.batch,"
    " max(e.received_at, coalesce("
    "(SELECT max(t.at) FROM transitions t WHERE t.experiment = e.id), 0)), e.reports = 'due'"
    " FROM experiments e"
)
_IDLE = ("SUBMITTED", "REFUSED")


@dataclass(frozen=True, slots=True)
class OldBatch:
    """A batch's row. ``touched_at`` is epoch seconds; ``awaited``: it may still be submitted."""

    row: int
    id: str
    awaited: bool
    touched_at: float


class Aging:
    """Rows by their age, and their end. Methods raise JournalError."""

    def __init__(self, file: Database) -> None:
        self._file = file

    def batches(self, after: int, most: int) -> list[OldBatch]:
        """The next batches behind that row, oldest first."""
        found = self._file.read(
            "SELECT rowid, id, state, max(created_at, coalesce(submitted_at, 0)) FROM batches"
            " WHERE rowid > ? ORDER BY rowid LIMIT ?",
            (after, most),
        )
        return [OldBatch(row, id_, state not in _IDLE, at) for row, id_, state, at in found]

    def of_batch(self, batch: str, wished: Collection[str]) -> list[Trace]:
        """All experiments that have or had a task in a batch; ``wished``: see Trace."""
        found = self._file.read(
            f"{_TRACE} WHERE e.id IN (SELECT id FROM experiments WHERE batch = ?"
            " UNION SELECT experiment FROM attempts WHERE batch = ?)",
            (batch, batch),
        )
        return [_trace(row, batch, wished) for row in found]

    def alone(self, after: int, most: int, wished: Collection[str]) -> list[tuple[int, Trace]]:
        """The next experiments behind that row that are in no batch, with their rows."""
        found = self._file.read(
            f"{_TRACE} WHERE e.batch = '' AND e.rowid > ? ORDER BY e.rowid LIMIT ?", (after, most)
        )
        return [(row[0], _trace(row, "", wished)) for row in found]

    def messages(self, after: int, most: int) -> list[tuple[int, str, bytes]]:
        """The next messages behind that row that are still there, with row and experiment."""
        found = self._file.read(
            "SELECT rowid, id, message FROM experiments WHERE length(message) > 0 AND rowid > ?"
            " ORDER BY rowid LIMIT ?",
            (after, most),
        )
        return [(row, id_, bytes(message)) for row, id_, message in found]

    def known_keys(self, but: Collection[str]) -> set[str]:
        """The clients' keys of all experiments that are known, but for these."""
        rows = self._file.read("SELECT id, key FROM experiments")
        return {key for id_, key in rows if id_ not in but}

    def blank(self, ids: Iterable[str]) -> None:
        """Remove the messages of these, which hold credentials; the dead list keeps its own."""
        with self._file.write() as db:
            db.executemany(
                f"UPDATE experiments SET message = x'' WHERE id = ? AND {_FINAL} AND aside = 0",
                [(i,) for i in ids],
            )

    def release(self, ids: Iterable[str]) -> None:
        """Take these off the dead list and remove their messages: nobody can retry them now.

        Nothing is added to their histories, or they would be young again.
        """
        with self._file.write() as db:
            db.executemany(
                f"UPDATE experiments SET aside = 0, message = x'' WHERE id = ? AND {_FINAL}",
                [(i,) for i in ids],
            )

    def forget(self, batches: Iterable[str], experiments: Iterable[str]) -> None:
        """Remove all rows of these; a batch stays while one of its experiments does."""
        with self._file.write() as db:
            for experiment in experiments:
                gone = db.execute(
                    f"DELETE FROM experiments WHERE id = ? AND {_FINAL} AND settled = 1",
                    (experiment,),
                ).rowcount
                if gone:
                    db.execute("DELETE FROM transitions WHERE experiment = ?", (experiment,))
                    db.execute("DELETE FROM attempts WHERE experiment = ?", (experiment,))
            for batch in batches:
                db.execute(
                    "DELETE FROM batches WHERE id = ?1 AND state IN ('SUBMITTED', 'REFUSED')"
                    " AND NOT EXISTS (SELECT 1 FROM experiments WHERE batch = ?1)",
                    (batch,),
                )

    def forget_gateways(self, before: float) -> None:
        """Remove those that began before (epoch seconds), but never the newest."""
        old = (
            "FROM gateways WHERE since < ? AND generation < (SELECT max(generation) FROM gateways)"
        )
        if self._file.read(f"SELECT 1 {old} LIMIT 1", (before,)):
            with self._file.write() as db:
                db.execute(f"DELETE {old}", (before,))

    def free(self) -> tuple[int, int]:
        """Bytes of the file that hold nothing, and all its bytes."""
        ((page,),) = self._file.read("PRAGMA page_size")
        ((free,),) = self._file.read("PRAGMA freelist_count")
        ((pages,),) = self._file.read("PRAGMA page_count")
        return free * page, pages * page

    def compact(self) -> None:
        """Write the file anew without what is free; it needs as much room again meanwhile."""
        self._file.compact()


def _trace(row: tuple[Any, ...], batch: str, wished: Collection[str]) -> Trace:
    _, id_, state, settled, aside, secret, ended_at, present, touched_at, reporting = row
    return Trace(
        id=id_,
        final=State(state).final,
        settled=bool(settled),
        dead=bool(aside),
        wished=id_ in wished,
        present=present == batch,
        secret=secret,
        touched_at=touched_at,
        ended_at=ended_at,
        reporting=bool(reporting),
    )
