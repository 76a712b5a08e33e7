"""The journal: every experiment and every step it takes, synced before its effect counts.

SQLite with a rollback journal and full sync: a write-ahead log needs shared memory, which
network file systems do not give (https://www.sqlite.org/wal.html). One writer, the gateway;
the command line reads.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway import schema
from hpcrunner.gateway.experiment import FINAL, LIVE, Experiment, Outcome, State
from hpcrunner.request.reasons import Reason
from hpcrunner.sites.spec import JobSpec

_COLUMNS = (
    "id, key, queue, state, received_at, attempt, spec, batch, task, job_id, reason, text, "
    "exit_code, node, pending, submitted_at, started_at, ended_at, owner, project"
)
_FINAL_WORDS = tuple(s.value for s in FINAL)
_LOCK_PATIENCE = 10.0
_NOT_FINAL = f"state NOT IN ({', '.join(repr(w) for w in _FINAL_WORDS)})"


class JournalError(HpcrunnerError):
    """The journal cannot be opened, read or written."""

    exit_code = 74  # EX_IOERR


class BatchState(str, Enum):
    """Where a batch stands with the scheduler."""

    SUBMITTING = "SUBMITTING"  # the scheduler may or may not have it: look before submitting
    READY = "READY"  # known not to be submitted; to be tried (again)
    SUBMITTED = "SUBMITTED"
    REFUSED = "REFUSED"


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One batch as the journal has it. Times are epoch seconds."""

    id: str
    state: BatchState
    spec: JobSpec
    size: int
    created_at: float
    submitted_at: float | None


@dataclass(frozen=True, slots=True)
class NewExperiment:
    """What intake writes down: a row, its message, and the message's SHA-256 (hex)."""

    experiment: Experiment
    message: bytes
    digest: str


class Journal:
    """Reads and writes of one journal file. Raises JournalError with what to do about it."""

    def __init__(self, path: Path, clock: Callable[[], float], *, make: bool = True) -> None:
        """Open the journal at ``path``; with ``make``, create it where it is missing (0600)."""
        self._path = path
        self._clock = clock
        try:
            os.close(os.open(path, os.O_RDWR | (os.O_CREAT if make else 0), 0o600))
            self._db = sqlite3.connect(path, timeout=_LOCK_PATIENCE, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = TRUNCATE")
            self._db.execute("PRAGMA synchronous = FULL")
            if make and schema.version_of(self._db) == 0:
                schema.create(self._db)
            found = schema.version_of(self._db)
        except (OSError, sqlite3.Error) as error:
            raise self._fault(error) from error
        if found != schema.SCHEMA_VERSION:
            self._db.close()
            raise JournalError(
                f"version {found}, this hpcrunner reads {schema.SCHEMA_VERSION}",
                where=f"journal {path}",
                remedy="run the version of hpcrunner that wrote it",
            )

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # -- writing ---------------------------------------------------------------------------

    def add(self, rows: Sequence[NewExperiment]) -> None:
        """Write a group of new experiments: one transaction, one sync."""
        with self._write() as db:
            for row in rows:
                e = row.experiment
                db.execute(
                    "INSERT INTO experiments (id, key, queue, state, received_at, digest, message,"
                    " attempt, spec, reason, text, owner, project, ended_at)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        e.id,
                        e.key,
                        e.queue,
                        e.state.value,
                        e.received_at,
                        row.digest,
                        row.message,
                        e.attempt,
                        _spec_text(e.spec) if e.spec else None,
                        e.reason.value if e.reason else None,
                        e.text,
                        e.owner,
                        e.project,
                        e.ended_at,
                    ),
                )
                self._note(db, e.id, e.state, e.text)

    def begin_batch(self, batch: str, spec: JobSpec, ids: Sequence[str]) -> None:
        """Tie experiments to a new batch (tasks 1…N in that order), before it is submitted."""
        with self._write() as db:
            db.execute(
                "INSERT INTO batches (id, state, spec, size, created_at) VALUES (?, ?, ?, ?, ?)",
                (batch, BatchState.SUBMITTING.value, _spec_text(spec), len(ids), self._clock()),
            )
            for task, experiment in enumerate(ids, start=1):
                db.execute(
                    "UPDATE experiments SET state = ?, batch = ?, task = ?"
                    " WHERE id = ? AND state = ?",
                    (State.SUBMITTING.value, batch, task, experiment, State.ACCEPTED.value),
                )
                self._note(db, experiment, State.SUBMITTING, f"batch {batch} task {task}")

    def set_batch(self, batch: str, state: BatchState, why: str = "") -> None:
        """Move a batch between SUBMITTING and READY; ``why`` is what its experiments wait for."""
        with self._write() as db:
            db.execute("UPDATE batches SET state = ? WHERE id = ?", (state.value, batch))
            db.execute(
                f"UPDATE experiments SET pending = ? WHERE batch = ? AND {_NOT_FINAL}",
                (why, batch),
            )

    def batch_submitted(self, batch: str, job_ids: Sequence[str]) -> None:
        """The scheduler has it: job ids in task order."""
        now = self._clock()
        with self._write() as db:
            db.execute(
                "UPDATE batches SET state = ?, submitted_at = ? WHERE id = ?",
                (BatchState.SUBMITTED.value, now, batch),
            )
            for task, job_id in enumerate(job_ids, start=1):
                row = db.execute(
                    "UPDATE experiments SET state = ?, job_id = ?, submitted_at = ?, pending = ''"
                    f" WHERE batch = ? AND task = ? AND {_NOT_FINAL} RETURNING id",
                    (State.PENDING.value, job_id, now, batch, task),
                ).fetchone()
                if row:
                    self._note(db, row[0], State.PENDING, f"job {job_id}")

    def batch_refused(self, batch: str, text: str) -> None:
        """The scheduler said no for good: all its experiments are set aside with that reason."""
        now = self._clock()
        with self._write() as db:
            db.execute(
                "UPDATE batches SET state = ? WHERE id = ?", (BatchState.REFUSED.value, batch)
            )
            rows = db.execute(
                "UPDATE experiments SET state = ?, reason = ?, text = ?, ended_at = ?"
                f" WHERE batch = ? AND {_NOT_FINAL} RETURNING id",
                (State.REJECTED.value, Reason.SUBMIT_REFUSED.value, text, now, batch),
            ).fetchall()
            for (experiment,) in rows:
                self._note(db, experiment, State.REJECTED, text)

    def running(self, rows: Sequence[tuple[str, str, float | None]]) -> None:
        """These run: experiment id, node, and since when (epoch)."""
        with self._write() as db:
            for experiment, node, started_at in rows:
                changed = db.execute(
                    "UPDATE experiments SET state = ?, node = ?, started_at = ?, pending = ''"
                    " WHERE id = ? AND state = ?",
                    (State.RUNNING.value, node, started_at, experiment, State.PENDING.value),
                ).rowcount
                if changed:
                    self._note(db, experiment, State.RUNNING, node)

    def waits(self, pending: Iterable[tuple[str, str]]) -> None:
        """Why queued jobs wait: pairs of experiment id and the scheduler's reason."""
        with self._write() as db:
            db.executemany(
                "UPDATE experiments SET pending = ? WHERE id = ?", [(p, e) for e, p in pending]
            )

    def end(self, outcomes: Sequence[tuple[str, Outcome]]) -> None:
        """Write final states; an experiment that already has one keeps it."""
        with self._write() as db:
            for experiment, o in outcomes:
                changed = db.execute(
                    "UPDATE experiments SET state = ?, reason = ?, text = ?, exit_code = ?,"
                    " node = CASE WHEN ? = '' THEN node ELSE ? END,"
                    " started_at = COALESCE(?, started_at), ended_at = ?, pending = ''"
                    f" WHERE id = ? AND {_NOT_FINAL}",
                    (
                        o.state.value,
                        o.reason.value,
                        o.text,
                        o.exit_code,
                        o.node,
                        o.node,
                        o.started_at,
                        o.ended_at if o.ended_at is not None else self._clock(),
                        experiment,
                    ),
                ).rowcount
                if changed:
                    self._note(db, experiment, o.state, o.text)

    def wish_cancel(self, ids: Iterable[str]) -> None:
        """Somebody wants these ended; kept until they are."""
        with self._write() as db:
            for experiment in ids:
                changed = db.execute(
                    f"UPDATE experiments SET cancel_wished = 1 WHERE id = ? AND {_NOT_FINAL}",
                    (experiment,),
                ).rowcount
                if changed:
                    db.execute(
                        "INSERT INTO transitions SELECT id, ?, state, 'cancel asked for'"
                        " FROM experiments WHERE id = ?",
                        (self._clock(), experiment),
                    )

    # -- reading ---------------------------------------------------------------------------

    def known(self, digest: str) -> bool:
        """True where a message of that SHA-256 has been written down before."""
        row = self._read("SELECT 1 FROM experiments WHERE digest = ? LIMIT 1", (digest,))
        return bool(row)

    def by_digest(self, digest: str, since: float) -> Experiment | None:
        """The latest experiment of that message's SHA-256 (hex) received from ``since`` on."""
        found = self._experiments(
            "WHERE digest = ? AND received_at >= ? ORDER BY received_at DESC LIMIT 1",
            (digest, since),
        )
        return found[0] if found else None

    def in_state(self, *states: State) -> list[Experiment]:
        """Experiments in these states, oldest first."""
        marks = ", ".join("?" * len(states))
        return self._experiments(
            f"WHERE state IN ({marks}) ORDER BY received_at, rowid", tuple(s.value for s in states)
        )

    def live(self) -> list[Experiment]:
        """All experiments that are not final, oldest first."""
        return self.in_state(*LIVE)

    def count(self, *states: State) -> int:
        """How many experiments are in these states."""
        marks = ", ".join("?" * len(states))
        rows = self._read(
            f"SELECT count(*) FROM experiments WHERE state IN ({marks})",
            tuple(s.value for s in states),
        )
        return int(rows[0][0])

    def count_live(self) -> int:
        """How many experiments are not final."""
        return self.count(*LIVE)

    def cancel_wished(self) -> list[Experiment]:
        """Experiments that somebody wants ended and that are not yet."""
        return self._experiments(f"WHERE cancel_wished = 1 AND {_NOT_FINAL}", ())

    def of_batch(self, batch: str) -> list[Experiment]:
        """A batch's experiments in task order."""
        return self._experiments("WHERE batch = ? ORDER BY task", (batch,))

    def batches(self, *states: BatchState) -> list[BatchRow]:
        """Batches in these states, oldest first."""
        marks = ", ".join("?" * len(states))
        rows = self._read(
            "SELECT id, state, spec, size, created_at, submitted_at FROM batches"
            f" WHERE state IN ({marks}) ORDER BY created_at, rowid",
            tuple(s.value for s in states),
        )
        return [BatchRow(r[0], BatchState(r[1]), _spec(r[2]), r[3], r[4], r[5]) for r in rows]

    def batch_ids(self) -> set[str]:
        """The ids of every batch ever begun."""
        return {row[0] for row in self._read("SELECT id FROM batches")}

    def recent(self, most: int) -> list[Experiment]:
        """The latest experiments, oldest first."""
        return self._experiments("ORDER BY received_at DESC, rowid DESC LIMIT ?", (most,))[::-1]

    def find(self, name: str) -> list[Experiment]:
        """Experiments by id, the start of an id, or the client's key; oldest first."""
        return self._experiments(
            "WHERE id = ? OR key = ? OR substr(id, 1, ?) = ? ORDER BY received_at, rowid",
            (name, name, len(name), name),
        )

    def message(self, experiment: str) -> bytes:
        """The message as it came: it holds credentials."""
        rows = self._read("SELECT message FROM experiments WHERE id = ?", (experiment,))
        if not rows:
            raise JournalError(
                "no such experiment",
                where=f"experiment {experiment}",
                remedy="'hpcrunner status' lists them",
            )
        return bytes(rows[0][0])

    def history(self, experiment: str) -> list[tuple[float, State, str]]:
        """Every step of an experiment: time, state, text."""
        rows = self._read(
            "SELECT at, state, text FROM transitions WHERE experiment = ? ORDER BY rowid",
            (experiment,),
        )
        return [(r[0], State(r[1]), r[2]) for r in rows]

    # -- inside ----------------------------------------------------------------------------

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._fault(error) from error

    def _read(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._fault(error) from error

    def _experiments(self, clause: str, values: tuple[object, ...]) -> list[Experiment]:
        rows = self._read(f"SELECT {_COLUMNS} FROM experiments {clause}", values)
        return [_experiment(row) for row in rows]

    def _note(self, db: sqlite3.Connection, experiment: str, state: State, text: str) -> None:
        db.execute(
            "INSERT INTO transitions (experiment, at, state, text) VALUES (?, ?, ?, ?)",
            (experiment, self._clock(), state.value, text),
        )

    def _fault(self, error: Exception) -> JournalError:
        return JournalError(
            f"cannot be used ({error})",
            where=f"journal {self._path}",
            remedy="check room, quota and permissions of the spool's file system",
        )


def _spec_text(spec: JobSpec) -> str:
    return json.dumps(asdict(spec), sort_keys=True)


def _spec(text: str) -> JobSpec:
    raw = json.loads(text)
    return JobSpec(**{**raw, "directives": tuple(raw["directives"])})


def _experiment(row: tuple[Any, ...]) -> Experiment:
    values = dict(zip((c.strip() for c in _COLUMNS.split(",")), row, strict=True))
    spec, reason = values["spec"], values["reason"]
    return Experiment(
        **{
            **values,
            "state": State(values["state"]),
            "spec": _spec(spec) if spec else None,
            "reason": Reason(reason) if reason else None,
        }
    )
