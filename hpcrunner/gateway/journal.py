"""The journal: every experiment and every step it takes, synced before its effect counts."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from hpcrunner.gateway import rows
from hpcrunner.gateway.aging import Aging
from hpcrunner.gateway.database import Database, JournalError
from hpcrunner.gateway.experiment import (
    FINAL,
    LIVE,
    SET_ASIDE,
    EndedAttempt,
    Experiment,
    Outcome,
    State,
)
from hpcrunner.request.reasons import Reason
from hpcrunner.sites.spec import JobSpec

_NOT_FINAL = f"state NOT IN ({', '.join(repr(s.value) for s in sorted(FINAL))})"


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


@dataclass(frozen=True, slots=True)
class NextAttempt:
    """An experiment whose present attempt ended with ``outcome`` and that is tried again.

    ``spec`` and ``not_before`` (epoch seconds) are the next attempt's; the failures are those so
    far, this one included; ``text`` says why there is another, for people.
    """

    experiment: Experiment
    outcome: Outcome
    spec: JobSpec
    not_before: float
    infrastructure_failures: int
    payload_failures: int
    text: str


class Journal:
    """Reads and writes of one journal file. Raises JournalError with what to do about it."""

    def __init__(self, path: Path, clock: Callable[[], float], *, make: bool = True) -> None:
        """Open the journal at ``path``; with ``make``, create or update it where needed."""
        self._file = Database(path, make=make)
        self._clock = clock
        self.aging = Aging(self._file)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def take_over(self, host: str, pid: int) -> None:
        """Become the one writer; every older one gets Superseded from its next write on."""
        self._file.take_over(host, pid, self._clock())

    def check(self) -> None:
        """Look the file over for damage. Raises JournalError."""
        self._file.check()

    # -- writing ---------------------------------------------------------------------------

    def add(self, new: Sequence[NewExperiment]) -> None:
        """Write a group of new experiments: one transaction, one sync."""
        with self._file.write() as db:
            for row in new:
                self._insert(db, row, settled=False)

    def settled(self, ids: Iterable[str]) -> None:
        """The queue has been told that these are taken over: it will not send them again."""
        with self._file.write() as db:
            db.executemany("UPDATE experiments SET settled = 1 WHERE id = ?", [(i,) for i in ids])

    def remark(self, ids: Iterable[str], text: str) -> None:
        """Note something in the history of these that changes no state."""
        with self._file.write() as db:
            for experiment in ids:
                self._remark(db, experiment, text)

    def begin_batch(
        self, batch: str, spec: JobSpec, members: Mapping[int, str], *, size: int
    ) -> None:
        """Tie experiments (id by task index) to a new batch before it is submitted.

        ``size`` is how many tasks the batch has; a task may be of no experiment known here.
        """
        with self._file.write() as db:
            db.execute(
                "INSERT INTO batches (id, state, spec, size, created_at) VALUES (?, ?, ?, ?, ?)",
                (batch, BatchState.SUBMITTING.value, rows.spec_text(spec), size, self._clock()),
            )
            for task, experiment in members.items():
                db.execute(
                    "UPDATE experiments SET state = ?, batch = ?, task = ?"
                    " WHERE id = ? AND state = ?",
                    (State.SUBMITTING.value, batch, task, experiment, State.ACCEPTED.value),
                )
                self._note(db, experiment, State.SUBMITTING, f"batch {batch} task {task}")

    def set_batch(self, batch: str, state: BatchState, why: str = "") -> None:
        """Move a batch between SUBMITTING and READY; ``why`` is what its experiments wait for."""
        with self._file.write() as db:
            db.execute("UPDATE batches SET state = ? WHERE id = ?", (state.value, batch))
            db.execute(
                f"UPDATE experiments SET pending = ? WHERE batch = ? AND {_NOT_FINAL}",
                (why, batch),
            )

    def batch_submitted(self, batch: str, job_ids: Sequence[str]) -> None:
        """The scheduler has it: job ids in task order."""
        now = self._clock()
        with self._file.write() as db:
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
        with self._file.write() as db:
            db.execute(
                "UPDATE batches SET state = ? WHERE id = ?", (BatchState.REFUSED.value, batch)
            )
            refused = db.execute(
                "UPDATE experiments SET state = ?, reason = ?, text = ?, ended_at = ?, aside = 1"
                f" WHERE batch = ? AND {_NOT_FINAL} RETURNING id",
                (State.REJECTED.value, Reason.SUBMIT_REFUSED.value, text, now, batch),
            ).fetchall()
            for (experiment,) in refused:
                self._note(db, experiment, State.REJECTED, text)

    def running(self, started: Sequence[tuple[str, str, float | None]]) -> None:
        """These run: experiment id, node, and since when (epoch)."""
        with self._file.write() as db:
            for experiment, node, started_at in started:
                changed = db.execute(
                    "UPDATE experiments SET state = ?, node = ?, started_at = ?, pending = ''"
                    " WHERE id = ? AND state = ?",
                    (State.RUNNING.value, node, started_at, experiment, State.PENDING.value),
                ).rowcount
                if changed:
                    self._note(db, experiment, State.RUNNING, node)

    def waits(self, pending: Iterable[tuple[str, str]]) -> None:
        """Why queued jobs wait: pairs of experiment id and the scheduler's reason."""
        with self._file.write() as db:
            db.executemany(
                "UPDATE experiments SET pending = ? WHERE id = ?", [(p, e) for e, p in pending]
            )

    def end(self, outcomes: Sequence[tuple[str, Outcome]]) -> None:
        """Write final states; an experiment that already has one keeps it."""
        with self._file.write() as db:
            for experiment, o in outcomes:
                changed = db.execute(
                    "UPDATE experiments SET state = ?, reason = ?, text = ?, exit_code = ?,"
                    " node = CASE WHEN ? = '' THEN node ELSE ? END,"
                    " started_at = COALESCE(?, started_at), ended_at = ?, pending = '', aside = ?"
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
                        o.state in SET_ASIDE,
                        experiment,
                    ),
                ).rowcount
                if changed:
                    self._note(db, experiment, o.state, o.text)

    def retry(self, again: Sequence[NextAttempt]) -> None:
        """These attempts ended, and each experiment goes back to wait for its next one."""
        with self._file.write() as db:
            for n in again:
                e, o = n.experiment, n.outcome
                changed = db.execute(
                    "UPDATE experiments SET state = ?, attempt = attempt + 1, spec = ?, batch = '',"
                    " task = 0, job_id = '', node = '', pending = ?, not_before = ?,"
                    " infrastructure_failures = ?, payload_failures = ?,"
                    " submitted_at = NULL, started_at = NULL"
                    f" WHERE id = ? AND attempt = ? AND {_NOT_FINAL}",
                    (
                        State.ACCEPTED.value,
                        rows.spec_text(n.spec),
                        n.text,
                        n.not_before,
                        n.infrastructure_failures,
                        n.payload_failures,
                        e.id,
                        e.attempt,
                    ),
                ).rowcount
                if not changed:
                    continue
                db.execute(
                    f"INSERT INTO attempts (experiment, {rows.ATTEMPT_COLUMNS})"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (e.id, *rows.attempt_values(e, o, self._clock())),
                )
                self._note(db, e.id, o.state, f"attempt {e.attempt}: {o.reason.value}: {o.text}")
                self._note(db, e.id, State.ACCEPTED, n.text)

    def regroup(self, batch: str, spec: JobSpec, why: str) -> None:
        """A batch that was refused as it is: its experiments wait again, with another spec."""
        with self._file.write() as db:
            db.execute(
                "UPDATE batches SET state = ? WHERE id = ?", (BatchState.REFUSED.value, batch)
            )
            waiting = db.execute(
                "UPDATE experiments SET state = ?, spec = ?, batch = '', task = 0, pending = ?"
                f" WHERE batch = ? AND {_NOT_FINAL} RETURNING id",
                (State.ACCEPTED.value, rows.spec_text(spec), why, batch),
            ).fetchall()
            for (experiment,) in waiting:
                self._note(db, experiment, State.ACCEPTED, why)

    def drop(self, ids: Iterable[str]) -> None:
        """Take these off the dead list."""
        with self._file.write() as db:
            for experiment in ids:
                changed = db.execute(
                    "UPDATE experiments SET aside = 0 WHERE id = ? AND aside = 1", (experiment,)
                ).rowcount
                if changed:
                    self._remark(db, experiment, "dropped from the dead list")

    def retry_aside(self, experiment: str, new: NewExperiment) -> None:
        """Have an experiment of the dead list run again, as a new row; its own ending stays."""
        with self._file.write() as db:
            changed = db.execute(
                "UPDATE experiments SET aside = 0, retried_as = ? WHERE id = ? AND aside = 1",
                (new.experiment.id, experiment),
            ).rowcount
            if changed:
                self._remark(db, experiment, f"retried as {new.experiment.id}")
                self._insert(db, new, settled=True)

    def wish_cancel(self, ids: Iterable[str]) -> None:
        """Somebody wants these ended; kept until they are."""
        with self._file.write() as db:
            for experiment in ids:
                changed = db.execute(
                    f"UPDATE experiments SET cancel_wished = 1 WHERE id = ? AND {_NOT_FINAL}",
                    (experiment,),
                ).rowcount
                if changed:
                    self._remark(db, experiment, "cancel asked for")

    # -- reading ---------------------------------------------------------------------------

    def repeated(self, digest: str, ended_since: float) -> Experiment | None:
        """The latest experiment of that message's SHA-256 (hex) that a copy would repeat.

        That is one whose message the queue may still believe to have, one that is not final, or
        one that ended at ``ended_since`` (epoch seconds) or later.
        """
        found = self._experiments(
            f"WHERE digest = ? AND (settled = 0 OR {_NOT_FINAL} OR ended_at >= ?)"
            " ORDER BY received_at DESC, rowid DESC LIMIT 1",
            (digest, ended_since),
        )
        return found[0] if found else None

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

    def due(self, now: float) -> list[Experiment]:
        """Accepted experiments that nothing holds back, oldest first."""
        return self._experiments(
            "WHERE state = ? AND not_before <= ? ORDER BY received_at, rowid",
            (State.ACCEPTED.value, now),
        )

    def next_due(self) -> float | None:
        """When (epoch seconds) the next accepted experiment may be submitted; None without any."""
        found = self._file.read(
            "SELECT min(not_before) FROM experiments WHERE state = ?", (State.ACCEPTED.value,)
        )
        return None if found[0][0] is None else float(found[0][0])

    def aside(self) -> list[Experiment]:
        """The dead list, oldest first."""
        return self._experiments("WHERE aside = 1 ORDER BY received_at, rowid", ())

    def attempts(self, experiment: str) -> list[EndedAttempt]:
        """The attempts before the present one, oldest first."""
        found = self._file.read(
            f"SELECT {rows.ATTEMPT_COLUMNS} FROM attempts WHERE experiment = ? ORDER BY attempt",
            (experiment,),
        )
        return [rows.attempt_of(row) for row in found]

    def live(self) -> list[Experiment]:
        """All experiments that are not final, oldest first."""
        return self.in_state(*LIVE)

    def count(self, *states: State) -> int:
        """How many experiments are in these states."""
        marks = ", ".join("?" * len(states))
        found = self._file.read(
            f"SELECT count(*) FROM experiments WHERE state IN ({marks})",
            tuple(s.value for s in states),
        )
        return int(found[0][0])

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
        found = self._file.read(
            "SELECT id, state, spec, size, created_at, submitted_at FROM batches"
            f" WHERE state IN ({marks}) ORDER BY created_at, rowid",
            tuple(s.value for s in states),
        )
        return [
            BatchRow(r[0], BatchState(r[1]), rows.spec_of(r[2]), r[3], r[4], r[5]) for r in found
        ]

    def batch_ids(self) -> set[str]:
        """The ids of every batch ever begun."""
        return {row[0] for row in self._file.read("SELECT id FROM batches")}

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
        found = self._file.read("SELECT message FROM experiments WHERE id = ?", (experiment,))
        if not found:
            raise JournalError(
                "no such experiment",
                where=f"experiment {experiment}",
                remedy="'hpcrunner status' lists them",
            )
        return bytes(found[0][0])

    def digest(self, experiment: str) -> str:
        """The SHA-256 (hex) of an experiment's message."""
        found = self._file.read("SELECT digest FROM experiments WHERE id = ?", (experiment,))
        return str(found[0][0])

    def history(self, experiment: str) -> list[tuple[float, State, str]]:
        """Every step of an experiment: time, state, text."""
        found = self._file.read(
            "SELECT at, state, text FROM transitions WHERE experiment = ? ORDER BY rowid",
            (experiment,),
        )
        return [(r[0], State(r[1]), r[2]) for r in found]

    # -- inside ----------------------------------------------------------------------------

    def _experiments(self, clause: str, values: tuple[object, ...]) -> list[Experiment]:
        found = self._file.read(f"SELECT {rows.COLUMNS} FROM experiments {clause}", values)
        return [rows.experiment_of(row) for row in found]

    def _insert(self, db: sqlite3.Connection, row: NewExperiment, *, settled: bool) -> None:
        e = row.experiment
        db.execute(
            "INSERT INTO experiments (id, key, queue, state, received_at, digest, message, attempt,"
            " spec, reason, text, owner, project, ended_at, settled, aside)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                e.id,
                e.key,
                e.queue,
                e.state.value,
                e.received_at,
                row.digest,
                row.message,
                e.attempt,
                rows.spec_text(e.spec) if e.spec else None,
                e.reason.value if e.reason else None,
                e.text,
                e.owner,
                e.project,
                e.ended_at,
                settled,
                e.state in SET_ASIDE,
            ),
        )
        self._note(db, e.id, e.state, e.text)

    def _remark(self, db: sqlite3.Connection, experiment: str, text: str) -> None:
        db.execute(
            "INSERT INTO transitions SELECT id, ?, state, ? FROM experiments WHERE id = ?",
            (self._clock(), text, experiment),
        )

    def _note(self, db: sqlite3.Connection, experiment: str, state: State, text: str) -> None:
        db.execute(
            "INSERT INTO transitions (experiment, at, state, text) VALUES (?, ?, ?, ?)",
            (experiment, self._clock(), state.value, text),
        )
