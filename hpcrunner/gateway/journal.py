"""The journal: every experiment and every step it takes, synced before its effect counts."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcrunner.gateway import rows
from hpcrunner.gateway.experiment import (
    SET_ASIDE,
    Experiment,
    Outcome,
    Reports,
    State,
    ending_words,
)
from hpcrunner.gateway.reader import NOT_FINAL, BatchState, Reader
from hpcrunner.request.reasons import Reason
from hpcrunner.sites.spec import JobSpec


@dataclass(frozen=True, slots=True)
class NewExperiment:
    """What intake writes down: a row, its message, and the message's SHA-256 (hex).

    ``time_added`` (epoch seconds, by the client) is only told, see happenings.py.
    """

    experiment: Experiment
    message: bytes
    digest: str
    time_added: float | None = None


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


class Journal(Reader):
    """The gateway's own: it reads, and it alone writes."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        """Open the journal at ``path``, made or brought up to date where needed."""
        super().__init__(path, make=True)
        self._clock = clock

    def take_over(self, host: str, pid: int) -> None:
        """Become the one writer; every older one gets Superseded from its next write on."""
        self._file.take_over(host, pid, self._clock())

    def check(self) -> None:
        """Look the file over for damage. Raises JournalError."""
        self._file.check()

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
                f"UPDATE experiments SET pending = ? WHERE batch = ? AND {NOT_FINAL}",
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
                    f" WHERE batch = ? AND task = ? AND {NOT_FINAL} RETURNING id",
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
                f" WHERE batch = ? AND {NOT_FINAL} RETURNING id",
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

    def follow(self, jobs: Sequence[tuple[str, str]]) -> None:
        """These attempts are in the hands of other jobs: experiment id, and that job's id."""
        with self._file.write() as db:
            for experiment, job_id in jobs:
                changed = db.execute(
                    f"UPDATE experiments SET job_id = ? WHERE id = ? AND {NOT_FINAL}",
                    (job_id, experiment),
                ).rowcount
                if changed:
                    self._remark(db, experiment, f"job {job_id} has it")

    def end(self, outcomes: Sequence[tuple[str, Outcome]]) -> None:
        """Write final states; an experiment that already has one keeps it."""
        with self._file.write() as db:
            for experiment, o in outcomes:
                changed = db.execute(
                    "UPDATE experiments SET state = ?, reason = ?, text = ?, exit_code = ?,"
                    " node = CASE WHEN ? = '' THEN node ELSE ? END,"
                    " started_at = COALESCE(?, started_at), ended_at = ?, pending = '', aside = ?"
                    f" WHERE id = ? AND {NOT_FINAL}",
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
                    f" WHERE id = ? AND attempt = ? AND {NOT_FINAL}",
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
                words = ending_words(o.state.value, o.reason.value, o.text)
                self._note(db, e.id, o.state, f"attempt {e.attempt}: {words}")
                self._note(db, e.id, State.ACCEPTED, n.text)

    def regroup(self, batch: str, spec: JobSpec, why: str) -> None:
        """A batch that was refused as it is: its experiments wait again, with another spec."""
        with self._file.write() as db:
            db.execute(
                "UPDATE batches SET state = ? WHERE id = ?", (BatchState.REFUSED.value, batch)
            )
            waiting = db.execute(
                "UPDATE experiments SET state = ?, spec = ?, batch = '', task = 0, pending = ?"
                f" WHERE batch = ? AND {NOT_FINAL} RETURNING id",
                (State.ACCEPTED.value, rows.spec_text(spec), why, batch),
            ).fetchall()
            for (experiment,) in waiting:
                self._note(db, experiment, State.ACCEPTED, why)

    def client_told(self, ids: Iterable[str]) -> None:
        """Nothing is left to be told to the client's database of these."""
        with self._file.write() as db:
            db.executemany(
                "UPDATE experiments SET client_told = 1 WHERE id = ?", [(i,) for i in ids]
            )

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

    def reported(self, ids: Iterable[str]) -> None:
        """The response queues of these have been told all, or will be told no more."""
        with self._file.write() as db:
            db.executemany(
                "UPDATE experiments SET reports = ? WHERE id = ?",
                [(Reports.OVER.value, experiment) for experiment in ids],
            )

    def wish_cancel(self, ids: Iterable[str]) -> None:
        """Somebody wants these ended; kept until they are."""
        with self._file.write() as db:
            for experiment in ids:
                changed = db.execute(
                    f"UPDATE experiments SET cancel_wished = 1 WHERE id = ? AND {NOT_FINAL}",
                    (experiment,),
                ).rowcount
                if changed:
                    self._remark(db, experiment, "cancel asked for")

    def _insert(self, db: sqlite3.Connection, row: NewExperiment, *, settled: bool) -> None:
        e = row.experiment
        db.execute(
            "INSERT INTO experiments (id, key, queue, state, received_at, digest, message, attempt,"
            " spec, reason, text, owner, project, ended_at, settled, aside, server, reports,"
            " rule) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
                e.server,
                e.reports.value,
                e.rule,
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
