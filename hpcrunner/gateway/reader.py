"""The journal as it is read: by the command line while the gateway writes, and by the gateway."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from hpcrunner.gateway import rows
from hpcrunner.gateway.aging import Aging
from hpcrunner.gateway.database import Database, JournalError
from hpcrunner.gateway.experiment import FINAL, LIVE, EndedAttempt, Experiment, State, Whose
from hpcrunner.sites.spec import JobSpec

NOT_FINAL = f"state NOT IN ({', '.join(repr(s.value) for s in sorted(FINAL))})"


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


class Reader:
    """Reads of one journal file. Raises JournalError with what to do about it."""

    def __init__(self, path: Path, *, make: bool = False) -> None:
        """Open the journal at ``path``; with ``make``, create or update it where needed."""
        self._file = Database(path, make=make)
        self.aging = Aging(self._file)  # for sweeps, which only the gateway's own journal writes

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def repeated(self, digest: str, ended_since: float) -> Experiment | None:
        """The latest experiment of that message's SHA-256 (hex) that a copy would repeat.

        That is one whose message the queue may still believe to have, one that is not final, or
        one that ended at ``ended_since`` (epoch seconds) or later.
        """
        found = self._experiments(
            f"WHERE digest = ? AND (settled = 0 OR {NOT_FINAL} OR ended_at >= ?)"
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

    def crowd(self, *states: State) -> dict[Whose, int]:
        """How many of each rule, queue and owner are in these states."""
        marks = ", ".join("?" * len(states))
        found = self._file.read(
            f"SELECT rule, queue, owner, count(*) FROM experiments WHERE state IN ({marks})"
            " GROUP BY rule, queue, owner",
            tuple(s.value for s in states),
        )
        return {Whose(rule, queue, owner): count for rule, queue, owner, count in found}

    def count_live(self) -> int:
        """How many experiments are not final."""
        return self.count(*LIVE)

    def cancel_wished(self) -> list[Experiment]:
        """Experiments that somebody wants ended and that are not yet."""
        return self._experiments(f"WHERE cancel_wished = 1 AND {NOT_FINAL}", ())

    def reports_due(self) -> list[Experiment]:
        """Experiments whose response queues are not told all yet, oldest first."""
        return self._experiments("WHERE reports = 'due' ORDER BY received_at, rowid", ())

    def untold(self) -> list[str]:
        """The ids of what has ended and of which the client's database may not know; oldest first.

        Whoever was retried by hand goes on under another id, and has nothing more to tell.
        """
        final = ", ".join(repr(state.value) for state in sorted(FINAL))
        found = self._file.read(
            "SELECT id FROM experiments WHERE client_told = 0 AND retried_as = ''"
            f" AND state IN ({final}) ORDER BY rowid"
        )
        return [str(row[0]) for row in found]

    def of_id(self, experiment: str) -> Experiment | None:
        """The experiment of that very id."""
        found = self._experiments("WHERE id = ?", (experiment,))
        return found[0] if found else None

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

    def members(self, batch: str) -> list[Experiment]:
        """The experiments of a batch that are not final, oldest first."""
        return self._experiments(
            f"WHERE batch = ? AND {NOT_FINAL} ORDER BY received_at, rowid", (batch,)
        )

    def count_aside(self) -> int:
        """How many experiments are on the dead list."""
        found = self._file.read("SELECT count(*) FROM experiments WHERE aside = 1")
        return int(found[0][0])

    def oldest(self, state: State) -> float | None:
        """When (epoch seconds) the oldest experiment in that state came; None without any."""
        found = self._file.read(
            "SELECT min(received_at) FROM experiments WHERE state = ?", (state.value,)
        )
        return None if found[0][0] is None else float(found[0][0])

    def states(self) -> dict[State, int]:
        """How many experiments are in each state."""
        found = self._file.read("SELECT state, count(*) FROM experiments GROUP BY state")
        return dict.fromkeys(State, 0) | {State(state): count for state, count in found}

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

    def last_step(self) -> int:
        """The number of the latest step of any experiment; steps are numbered in their order."""
        found = self._file.read("SELECT coalesce(max(rowid), 0) FROM transitions")
        return int(found[0][0])

    def ended_after(self, step: int, most: int) -> list[tuple[int, str]]:
        """The next steps after that one that tell an ending, with the experiments' ids.

        An attempt's ending is one too, though another attempt followed it.
        """
        return self._file.read(
            "SELECT rowid, experiment FROM transitions"
            f" WHERE rowid > ? AND NOT {NOT_FINAL} ORDER BY rowid LIMIT ?",
            (step, most),
        )

    def ended_later(self, experiment: Experiment) -> bool:
        """Whether another experiment of the same key was received later, and has ended too."""
        if not experiment.key:
            return False
        found = self._file.read(
            f"SELECT 1 FROM experiments WHERE key = ? AND received_at > ? AND NOT {NOT_FINAL}"
            " LIMIT 1",
            (experiment.key, experiment.received_at),
        )
        return bool(found)

    def _experiments(self, clause: str, values: tuple[object, ...]) -> list[Experiment]:
        found = self._file.read(f"SELECT {rows.COLUMNS} FROM experiments {clause}", values)
        return [rows.experiment_of(row) for row in found]
