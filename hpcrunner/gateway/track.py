"""From submitted experiments to outcomes: all jobs in one question a tick, and their records."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from hpcrunner.crashpoint import crashpoint
from hpcrunner.gateway.endings import Evidence, Patience, judge, with_unsaved
from hpcrunner.gateway.experiment import SUBMITTED, Experiment, Outcome, State, ending_words
from hpcrunner.gateway.following import following
from hpcrunner.gateway.happenings import Ended, Retried, Started, Tell, nobody
from hpcrunner.gateway.journal import Journal
from hpcrunner.gateway.pace import Period
from hpcrunner.gateway.retries import exhausted
from hpcrunner.gateway.spool import Spool
from hpcrunner.request.claim import Fenced
from hpcrunner.request.record import Record, RecordError, record_from_json
from hpcrunner.schedulers.contract import (
    Job,
    JobState,
    Scheduler,
    SchedulerUnavailable,
    Sighting,
    Verdict,
)
from hpcrunner.sites.site import Site

log = logging.getLogger(__name__)


DELIVERING = "has ended; its results are being uploaded"
_A_ROUND = 1000  # endings written down in one round; each may cost a synced file


@dataclass(frozen=True, slots=True)
class _Judged:
    """An attempt that has ended; ``waits``: the scheduler still has its job in the queue;
    ``wished``: somebody wanted it cancelled.
    """

    experiment: Experiment
    outcome: Outcome
    record: Record | None
    waits: bool
    wished: bool


class Delivery(Protocol):
    """What brings the results of jobs to their stores."""

    def settle(
        self, experiment: Experiment, record: Record | None, *, hurry: bool
    ) -> tuple[str, ...] | None:
        """Whether what an attempt left is out by now: None for not yet, else a line for each
        that could not be saved. With ``hurry``, nothing that is away is waited for.
        """
        ...


class Track:
    """Asks the scheduler for all live jobs at once, reads new records, writes what changed."""

    def __init__(
        self,
        journal: Journal,
        spool: Spool,
        scheduler: Scheduler,
        site: Site,
        *,
        clock: Callable[[], float],
        tell: Tell = nobody,
        delivery: Delivery | None = None,
    ) -> None:
        self._journal = journal
        self._spool = spool
        self._scheduler = scheduler
        self._site = site
        self._clock = clock
        self._tell = tell
        self._delivery = delivery
        self._held: dict[str, _Judged] = {}  # by experiment: ended, but its results are not out
        self._patience = Patience(
            record=site.record_wait,
            accounting=site.accounting.wait,
            absence=site.lost_after,
            has_accounting=site.accounting.mode != "none",
            outage=site.accounting.outage,
            stuck=site.stuck_after,
        )
        self.period = Period(site.polling.floor, site.polling.ceiling)
        self._ended_since: dict[str, float] = {}
        self._absent_since: dict[str, float] = {}
        self._gone_since: dict[str, float] = {}
        self._stuck_since: dict[str, float] = {}

    def step(self) -> int:
        """One round over all submitted experiments; returns how many ended.

        Raises JournalError where the outcome could not be written; it is judged again then.
        """
        submitted = [e for e in self._journal.in_state(*SUBMITTED) if e.id not in self._held]
        if not submitted:
            return 0
        began = self._clock()
        since = min(e.submitted_at or e.received_at for e in submitted)
        sightings = self._scheduler.look_up([e.job for e in submitted], since)
        took = self._clock() - began
        # Listed after the scheduler was asked: what it calls ended has had time to show.
        records = self._records({e.batch for e in submitted})
        submitted = [e for e in submitted if e.batch in records]
        judged, changed = self._judge_all(submitted, sightings, records)
        judged = self._followed(judged)
        crashpoint("track.judged")
        self._write_down(self._delivered(judged))
        self._take_out([j.experiment.job for j in judged if j.waits])
        for j in judged:
            self._forget(j.experiment.id)
        ending = any(e.task in records[e.batch] for e in submitted)
        self.period.after(took=took, news=bool(judged or changed or ending))
        return len(judged)

    def deliver(self) -> int:
        """Write down endings that waited for their results to be out; returns how many.

        Called each round. Raises JournalError; it is written then.
        """
        if not self._held:
            return 0
        wished = {e.id for e in self._journal.cancel_wished()}
        held = [replace(j, wished=j.experiment.id in wished) for j in self._held.values()]
        delivered = self._delivered(held)
        self._write_down(delivered)
        for j in delivered:
            del self._held[j.experiment.id]
        return len(delivered)

    def _delivered(self, judged: Sequence[_Judged]) -> list[_Judged]:
        """Those whose results are out, or were given up; the others are held."""
        if self._delivery is None:
            return list(judged)
        out: list[_Judged] = []
        waits: list[tuple[str, str]] = []
        for j in judged:
            e = j.experiment
            unsaved = self._delivery.settle(e, j.record, hurry=j.wished)
            if unsaved is not None:
                out.append(replace(j, outcome=with_unsaved(j.outcome, unsaved)))
                continue
            if e.id not in self._held:
                waits.append((e.id, DELIVERING))
            self._held[e.id] = j
        if waits:
            self._journal.waits(waits)
        return out

    def _forget(self, experiment: str) -> None:
        for memory in (
            self._ended_since,
            self._absent_since,
            self._gone_since,
            self._stuck_since,
        ):
            memory.pop(experiment, None)

    def _records(self, batches: Iterable[str]) -> dict[str, dict[int, Path]]:
        """The records of each batch; one that cannot be listed is left out: its jobs may well
        have left some, so nothing of it is judged now.
        """
        found: dict[str, dict[int, Path]] = {}
        for batch in batches:
            try:
                found[batch] = self._spool.records(batch)
            except OSError as error:
                log.warning("batch %s: cannot list its records now (%s)", batch, error)
        return found

    def _followed(self, judged: Sequence[_Judged]) -> list[_Judged]:
        """Those that stand. A job that left no record may be a duplicate that ended at once.

        A submission that arrives after it was given up leaves two jobs on one batch. The claim
        says which of them has the attempt; that one is tracked from now on.
        """
        stand: list[_Judged] = []
        followed: list[tuple[str, str]] = []
        for j in judged:
            e = j.experiment
            claimant = "" if j.record else self._spool.claimant(e.batch, e.task)
            if claimant not in ("", e.job_id):
                log.warning("%s: job %s has it, not %s: followed", e.id, claimant, e.job_id)
                followed.append((e.id, claimant))
                self._forget(e.id)
            else:
                stand.append(j)
        if followed:
            self._journal.follow(followed)
        return stand

    def _write_down(self, judged: Sequence[_Judged]) -> None:
        """Final states, and those attempts that are followed by another."""
        final: list[Ended] = []
        again: list[Retried] = []
        for j in judged:
            e, outcome = j.experiment, j.outcome
            now = self._clock()
            next_ = None if j.wished else following(self._journal, self._site, e, outcome, now)
            if next_ is not None or j.record is None:
                # Whatever the scheduler does with the job now, it starts this attempt no more.
                fenced = self._spool.fence(e.batch, e.task)
                if outcome.state is State.LOST and fenced is Fenced.AFTER_START:
                    next_ = None  # it may still run where nobody can see it
            if next_ is not None:
                again.append(Retried(next_, j.record))
                log.warning(
                    "%s: %s (%s)", e.id, next_.text, outcome.text, extra=_fields(e, outcome)
                )
                continue
            outcome = replace(outcome, text=outcome.text + exhausted(e, outcome))
            final.append(Ended(e, outcome, j.record))
            state, reason = outcome.state.value, outcome.reason.value
            words = ending_words(state, reason, outcome.text)
            log.info("%s %s: %s", e.id, state, words, extra=_fields(e, outcome))
        crashpoint("track.fenced")
        # One after the other: an experiment is in one of the two, and each is whole by itself.
        if again:
            self._journal.retry([retried.following for retried in again])
            crashpoint("track.retried")
        self._journal.end([(ended.experiment.id, ended.outcome) for ended in final])
        crashpoint("track.ended")
        for retried in again:
            self._tell(retried)
        for ended in final:
            self._tell(ended)

    def _take_out(self, jobs: Sequence[Job]) -> None:
        """Have jobs removed from the queue that were ended while they wait there."""
        if not jobs:
            return
        try:
            self._scheduler.cancel(jobs)
        except SchedulerUnavailable as error:
            log.warning("cancel of %d job(s): %s", len(jobs), error.line())

    def _judge_all(
        self,
        submitted: Sequence[Experiment],
        sightings: Mapping[Job, Sighting],
        records: Mapping[str, Mapping[int, Path]],
    ) -> tuple[list[_Judged], bool]:
        now = self._clock()
        wished = {e.id for e in self._journal.cancel_wished()}
        judged: list[_Judged] = []
        waits: list[tuple[str, str]] = []
        running: list[Started] = []
        for e in submitted:
            seen = sightings.get(e.job, Sighting(Verdict.UNAVAILABLE))
            _since(self._absent_since, e.id, now, seen.verdict is Verdict.NOT_FOUND)
            _since(self._ended_since, e.id, now, seen.state is JobState.ENDED)
            _since(self._gone_since, e.id, now, seen.gone)
            _since(self._stuck_since, e.id, now, seen.stuck)
            over = seen.verdict is Verdict.NOT_FOUND or seen.state is JobState.ENDED or seen.gone
            path = records[e.batch].get(e.task)
            # Read only now: a requeued job puts a new record in the place of the first one's.
            record = _record_of(e, path) if over and path else None
            evidence = Evidence(
                seen,
                record,
                ended_since=self._ended_since.get(e.id),
                absent_since=self._absent_since.get(e.id),
                gone_since=self._gone_since.get(e.id),
                stuck_since=self._stuck_since.get(e.id),
                cancel_wished=e.id in wished,
            )
            outcome = judge(evidence, self._patience, now)
            if outcome is not None:
                judged.append(
                    _Judged(
                        e,
                        outcome,
                        record=record,
                        waits=seen.state is JobState.QUEUED,
                        wished=e.id in wished,
                    )
                )
            elif e.state is State.PENDING and seen.state in (
                JobState.RUNNING,
                JobState.COMPLETING,
            ):
                running.append(Started(e, seen.node, seen.started_at))
            elif seen.state is JobState.QUEUED and seen.pending != e.pending:
                waits.append((e.id, seen.pending))
        if waits:
            self._journal.waits(waits)
        if running:
            self._journal.running([(s.experiment.id, s.node, s.at) for s in running])
            for started in running:
                self._tell(started)
        return judged[:_A_ROUND], bool(running)


def _fields(e: Experiment, outcome: Outcome) -> dict[str, object]:
    """What a structured log line of an ending also has."""
    return {
        "experiment": e.id,
        "batch": e.batch,
        "queue": e.queue,
        "state": outcome.state.value,
        "reason": outcome.reason.value,
    }


def _since(memory: dict[str, float], key: str, now: float, holds: bool) -> None:
    """Remember since when something has held without a break."""
    if holds:
        memory.setdefault(key, now)
    else:
        memory.pop(key, None)


def _record_of(experiment: Experiment, path: Path) -> Record | None:
    try:
        record = record_from_json(path.read_text(encoding="utf-8"), where=str(path))
    except (OSError, UnicodeDecodeError) as error:
        log.warning("%s: cannot read its record yet (%s)", experiment.id, error)
        return None
    except RecordError as error:
        log.warning("%s: %s", experiment.id, error.line())
        return None
    if (record.experiment, record.attempt) != (experiment.id, experiment.attempt):
        log.warning("%s: the record at %s is of another attempt", experiment.id, path)
        return None
    return record
