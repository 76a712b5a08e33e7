"""Retention carried out: credentials, then whole batches, then what crashes have left.

A folder goes before its rows, and its removal is synced before they go: a crash between leaves
rows of ended experiments, which the next sweep takes up, and never a folder that no row names.
Work is a chain of small steps, so that a gateway can stop after any and go on in its next round.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from pathlib import Path

from hpcrunner.batch.batch import NAME_PREFIX
from hpcrunner.crashpoint import crashpoint
from hpcrunner.gateway import storesweep
from hpcrunner.gateway.aging import OldBatch
from hpcrunner.gateway.experiment import LIVE
from hpcrunner.gateway.reader import Reader
from hpcrunner.gateway.removal import changed_at, removal, size_of
from hpcrunner.gateway.retention import (
    Ages,
    Trace,
    fate_of,
    may_blank,
    may_go,
    unknown_may_go,
)
from hpcrunner.gateway.spool import Spool, Verb
from hpcrunner.request.plan import PLAN_NAME
from hpcrunner.request.units import format_bytes
from hpcrunner.schedulers.local_store import Store
from hpcrunner.sync import sync_folder

_BATCHES, _EXPERIMENTS = 20, 200  # about as many are forgotten in one transaction
_UNFINISHED_AGE = 86400.0  # what is written and renamed takes seconds


class Kind(str, Enum):
    """What goes."""

    PLANS = "plans"
    MESSAGES = "messages"
    BATCHES = "batches"
    EXPERIMENTS = "experiments"
    RESULTS = "results"
    ARCHIVES = "archives"
    LEFTOVERS = "leftovers"


@dataclass(frozen=True, slots=True)
class Count:
    """How many, and how many bytes; the rows of experiments count with their messages."""

    number: int = 0
    size: int = 0


@dataclass
class Tally:
    """What went, or would go; and what could not, with the reason."""

    counts: dict[Kind, Count] = field(default_factory=lambda: {kind: Count() for kind in Kind})
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, kind: Kind, number: int, size: int) -> None:
        """Count some more."""
        old = self.counts[kind]
        self.counts[kind] = Count(old.number + number, old.size + size)

    def words(self) -> str:
        """``3 batches (1.2 MB), 7 experiments (14 kB)``; empty where there is nothing."""
        return ", ".join(
            f"{c.number} {kind.value} ({format_bytes(c.size)})"
            for kind, c in self.counts.items()
            if c.number
        )


class Sweep:
    """One pass over the whole spool. With ``dry``, nothing is changed, only counted."""

    def __init__(
        self, journal: Reader, spool: Spool, ages: Ages, clock: Callable[[], float], *, dry: bool
    ) -> None:
        self._aging = journal.aging
        self._journal = journal
        self._spool = spool
        self._local = Store(spool.local)
        self._ages = ages
        self._clock = clock
        self._dry = dry
        self._gone: set[str] = set()  # of a dry run: experiments that the journal would not have
        self._bare: set[str] = set()  # any more, and whose messages it would not have
        self.tally = Tally()

    def run(self) -> Iterator[None]:
        """All of it, step by step; it may be left off after any. Raises JournalError."""
        yield from self._batches()
        yield from self._alone()
        yield from self._unknown()
        yield from self._store()
        yield from self._leftovers()
        if not self._dry and self._ages.ended is not None:
            self._aging.forget_gateways(self._clock() - self._ages.ended)

    def _batches(self) -> Iterator[None]:
        after = 0
        while page := self._aging.batches(after, _BATCHES):
            after = page[-1].row
            gone: dict[str, list[Trace]] = {}
            for batch in page:
                yield from self._batch(batch, gone)
                yield
                if sum(map(len, gone.values())) >= _EXPERIMENTS:
                    self._forget(gone)
                    gone = {}
            self._forget(gone)

    def _batch(self, batch: OldBatch, gone: dict[str, list[Trace]]) -> Iterator[None]:
        members = self._aging.of_batch(batch.id, self._wished())
        busy = batch.awaited or (self._local.jobs / (NAME_PREFIX + batch.id)).exists()
        fate = fate_of(members, self._ages, self._clock(), busy=busy, touched_at=batch.touched_at)
        if fate.whole:
            dead = [m.id for m in members if m.present and m.dead]
            if dead and not self._dry:
                # First of all: a retry would look for the folder that is about to go.
                self._aging.release(dead)
                crashpoint("gc.released")
            folder = self._spool.batch_folder(batch.id)
            yield from self._remove(self._local.ended / (NAME_PREFIX + batch.id), Kind.BATCHES, 0)
            yield from self._remove(folder, Kind.BATCHES, 1)
            if str(folder) in self.tally.skipped:
                self._blank(fate.blank)
            else:
                gone[batch.id] = [m for m in members if m.present]
        elif fate.plan:
            self._blank(fate.blank)
            self._remove_plan(self._spool.batch_folder(batch.id) / PLAN_NAME)

    def _alone(self) -> Iterator[None]:
        after = 0
        while page := self._aging.alone(after, _EXPERIMENTS, self._wished()):
            after = page[-1][0]
            now = self._clock()
            going = [trace for _, trace in page if may_go(trace, self._ages, now)]
            self._blank(
                tuple(t for _, t in page if t not in going and may_blank(t, self._ages, now))
            )
            self._forget({"": going} if going else {})
            yield

    def _blank(self, traces: tuple[Trace, ...]) -> None:
        if traces and not self._dry:
            self._aging.blank(t.id for t in traces)
            crashpoint("gc.blanked")
        if self._dry:
            self._bare.update(t.id for t in traces)
        self.tally.add(Kind.MESSAGES, len(traces), sum(t.secret for t in traces))

    def _forget(self, gone: dict[str, list[Trace]]) -> None:
        """The rows of what is gone; by now no power loss may bring its folders back."""
        traces = [trace for members in gone.values() for trace in members]
        if gone and not self._dry:
            sync_folder(self._spool.batches)
            crashpoint("gc.folders_gone")
            self._aging.forget((b for b in gone if b), (t.id for t in traces))
            crashpoint("gc.forgotten")
        if self._dry:
            self._gone.update(t.id for t in traces)
        self.tally.add(Kind.EXPERIMENTS, len(traces), sum(t.secret for t in traces))

    def _unknown(self) -> Iterator[None]:
        """Folders that no row names: a spool restored from a backup has them."""
        with suppress(FileNotFoundError):
            names = self._spool.batch_names()  # before the rows: a folder may be made meanwhile
            known = self._journal.batch_ids()
            for name in (n for n in names if n not in known):
                folder = self._spool.batch_folder(name)
                if self._unchanged(folder) and not self._awaited(name):
                    yield from self._remove(folder, Kind.LEFTOVERS, 1)
                yield

    def _unchanged(self, folder: Path) -> bool:
        try:
            return unknown_may_go(changed_at(folder), self._ages, self._clock())
        except FileNotFoundError:
            return False
        except (OSError, RecursionError) as error:
            self._skip(folder, error)
            return False

    def _awaited(self, batch: str) -> bool:
        plan = self._spool.plan(batch)
        planned = {p.id for p in plan.experiments} if plan else set()
        live = {e.id for e in self._journal.in_state(*LIVE)} if planned else set()
        return bool(planned & live) or (self._local.jobs / (NAME_PREFIX + batch)).exists()

    def _store(self) -> Iterator[None]:
        """The spool's own file store, in which many things may be of one experiment."""
        old: list[storesweep.Stored] = []
        before = -inf if self._ages.store is None else self._clock() - self._ages.store
        for found in storesweep.stored(self._spool.store):
            if storesweep.begun(found.path):
                yield from self._remove(found.path, Kind.LEFTOVERS, 1)
            elif before > -inf and self._old(found.path, before):
                old.append(found)
            yield
        if not old:
            return
        try:
            needed = yield from storesweep.needed(
                self._journal, self._spool, self._gone, self._bare
            )
        except OSError as error:  # a message that cannot be read may name any of them
            self._skip(Path(error.filename or self._spool.queue_root), error, "read")
            return
        for found in (s for s in old if s.name not in needed):
            path: Path | None = found.path
            try:
                if not self._dry:
                    path = storesweep.out_of_sight(found.path, before)
                    crashpoint("gc.out_of_sight")
            except (OSError, RecursionError) as error:
                self._skip(found.path, error)
                continue
            if path is not None:
                kind = Kind.ARCHIVES if found.archive else Kind.RESULTS
                yield from self._remove(path, kind, 1)
            yield

    def _old(self, path: Path, before: float) -> bool:
        try:
            return not storesweep.young(path, before)
        except FileNotFoundError:
            return False
        except (OSError, RecursionError) as error:
            self._skip(path, error)
            return False

    def _leftovers(self) -> Iterator[None]:
        """What crashes in the middle of a write have left, and the local scheduler's strays."""
        young = self._clock() - _UNFINISHED_AGE
        for path in self._unfinished():
            with suppress(OSError):
                if path.lstat().st_mtime < young:
                    yield from self._remove(path, Kind.LEFTOVERS, 1)
            yield
        ended = self._ages.ended
        if ended is None or not self._local.ended.is_dir():
            return
        known = self._journal.batch_ids()
        for path in list(self._local.ended.iterdir()):
            unknown = path.name.removeprefix(NAME_PREFIX) not in known
            with suppress(OSError):
                if unknown and path.lstat().st_mtime < min(young, self._clock() - ended):
                    yield from self._remove(path, Kind.LEFTOVERS, 1)
            yield

    def _unfinished(self) -> list[Path]:
        root = self._spool.root
        return [
            *root.glob(".drained-*"),
            *self._spool.local.glob(f".{NAME_PREFIX}*"),
            *self._spool.queue_root.glob(".publishing/*/*"),
            *self._spool.wish_root.glob(".*"),
            *storesweep.unfinished(self._spool.store),
        ]

    def _wished(self) -> set[str]:
        found: set[str] = set()
        for verb in Verb:
            with suppress(FileNotFoundError):
                found.update(self._spool.wishes(verb))
        return found

    def _remove(self, path: Path, kind: Kind, number: int) -> Iterator[None]:
        if not os.path.lexists(path):
            return
        if self._dry:
            size = size_of(path) if path.is_dir() else path.lstat().st_size
            self.tally.add(kind, number, size)
            return
        size = 0
        try:
            if kind is not Kind.BATCHES and not path.is_dir():
                size = path.lstat().st_size
                path.unlink()
            else:
                for freed in removal(path):
                    size += freed
                    yield
        except (OSError, RecursionError) as error:
            self._skip(path, error)
            return
        crashpoint("gc.removed")
        self.tally.add(kind, number, size)

    def _remove_plan(self, plan: Path) -> None:
        try:
            size = plan.lstat().st_size
            if not self._dry:
                plan.unlink()
                crashpoint("gc.plan_removed")
        except FileNotFoundError:
            return
        except OSError as error:
            self._skip(plan, error)
            return
        self.tally.add(Kind.PLANS, 1, size)

    def _skip(self, path: Path, error: OSError | RecursionError, what: str = "removed") -> None:
        why = error.strerror if isinstance(error, OSError) else "nested too deeply"
        self.tally.skipped[str(path)] = f"cannot be {what} ({why})"
