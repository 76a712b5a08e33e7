"""From waiting experiments to submitted batches, one run of each attempt whatever happens.

The order is the protocol: the batch's folder is written and synced, the journal says
SUBMITTING, the scheduler is asked, the journal says SUBMITTED. A batch found as SUBMITTING
(after a crash, or because the scheduler's answer was uncertain) is looked up by its name and
adopted; it is submitted again only after it has been absent, with every witness healthy, for
the site's settle time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.script import render_script
from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.admission import admit
from hpcrunner.gateway.experiment import Experiment, Outcome, State
from hpcrunner.gateway.journal import BatchRow, BatchState, Journal
from hpcrunner.gateway.pace import SubmitRate
from hpcrunner.gateway.spool import Spool
from hpcrunner.request.plan import Plan, PlannedExperiment
from hpcrunner.request.reasons import Reason
from hpcrunner.schedulers.contract import (
    Scheduler,
    SubmitRefused,
    SubmitUncertain,
    Verdict,
)
from hpcrunner.sites.node_setup import node_setup
from hpcrunner.sites.site import Site
from hpcrunner.sites.spec import JobSpec

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 120.0


class Dispatch:
    """Forms batches, submits them at the site's rate, and settles the uncertain ones."""

    def __init__(
        self,
        journal: Journal,
        spool: Spool,
        scheduler: Scheduler,
        site: Site,
        *,
        clock: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self._journal = journal
        self._spool = spool
        self._scheduler = scheduler
        self._site = site
        self._clock = clock
        self._new_id = new_id
        rate = site.limits.submit_rate
        self._rate = SubmitRate(rate.count, rate.seconds, clock)
        self._absent_since: dict[str, float] = {}
        self._pause = _FIRST_PAUSE
        self._not_before = 0.0

    def sweep(self) -> None:
        """Remove batch folders that no journal row names: a crash came before the row."""
        known = self._journal.batch_ids()
        for name in self._spool.batch_names():
            if name not in known:
                self._spool.remove_batch(name)

    def step(self) -> int:
        """Settle what is uncertain, then submit what waits; returns how many were submitted.

        Raises JournalError or SpoolError where nothing can be written down: then nothing was
        submitted that the journal does not know of.
        """
        self._settle()
        if self._clock() < self._not_before:
            return 0
        submitted = 0
        for row in self._journal.batches(BatchState.READY):
            if not self._rate.take():
                return submitted
            self._journal.set_batch(row.id, BatchState.SUBMITTING)
            submitted += self._submit(self._batch(row))
            if self._clock() < self._not_before:
                return submitted
        for spec, group in self._groups():
            if not self._rate.take():
                break
            batch = self._form(spec, group)
            submitted += self._submit(batch) if batch else 0
            if self._clock() < self._not_before:
                break
        return submitted

    def wait(self) -> float | None:
        """Seconds until a step has something to do of itself, None while nothing waits."""
        uncertain = self._journal.batches(BatchState.SUBMITTING, BatchState.READY)
        if not uncertain and not self._journal.count(State.ACCEPTED):
            return None
        return max(self._rate.wait(), self._not_before - self._clock(), 0.05)

    def _groups(self) -> Iterator[tuple[JobSpec, list[Experiment]]]:
        """Waiting experiments of one shape, the oldest group first, within the site's caps."""
        limits = self._site.limits
        waiting: dict[JobSpec, list[Experiment]] = {}
        for experiment in self._journal.in_state(State.ACCEPTED):
            if experiment.spec is not None:
                waiting.setdefault(experiment.spec, []).append(experiment)
        if not waiting:
            return
        room = limits.max_jobs - self._journal.count(State.SUBMITTING, State.PENDING, State.RUNNING)
        for spec, members in waiting.items():
            while members and room > 0:
                size = min(len(members), limits.largest_array, room)
                group, members = members[:size], members[size:]
                room -= size
                yield spec, group

    def _form(self, spec: JobSpec, group: Sequence[Experiment]) -> Batch | None:
        planned = [p for p in map(self._planned, group) if p is not None]
        if not planned:
            return None
        batch_id = self._new_id()
        batch = Batch(batch_id, spec, len(planned), self._spool.batch_folder(batch_id))
        plan = Plan(
            batch=batch_id,
            setup=node_setup(self._site, spec.time_limit),
            experiments=tuple(planned),
        )
        self._spool.write_batch(plan, render_script(batch, self._site))
        self._journal.begin_batch(batch_id, spec, [p.id for p in planned])
        return batch

    def _planned(self, experiment: Experiment) -> PlannedExperiment | None:
        message = self._journal.message(experiment.id)
        try:
            # Judged at its arrival: what was in time then is not refused for waiting here.
            admission = admit(message, self._site, experiment.received_at)
            return admission.planned(experiment=experiment.id, attempt=experiment.attempt)
        except HpcrunnerError as error:
            # The site file has changed since it was accepted.
            log.warning("%s set aside: %s", experiment.id, error.line())
            outcome = Outcome(State.REJECTED, Reason.REJECTED, error.line())
            self._journal.end([(experiment.id, outcome)])
            return None

    def _submit(self, batch: Batch) -> int:
        try:
            submission = self._scheduler.submit(batch)
        except SubmitUncertain as error:
            log.warning("batch %s: %s; looking it up before anything else", batch.id, error.line())
            self._back_off()
            return 0
        except SubmitRefused as error:
            if error.passing:
                log.warning("batch %s: refused for now: %s", batch.id, error.line())
                self._journal.set_batch(batch.id, BatchState.READY, error.line())
                self._back_off()
                return 0
            log.error("batch %s: refused: %s", batch.id, error.line())
            self._journal.batch_refused(batch.id, error.line())
            self._spool.remove_batch(batch.id)
            return 0
        self._pause = _FIRST_PAUSE
        self._adopt(batch, submission.job_ids)
        return batch.size

    def _adopt(self, batch: Batch, job_ids: Sequence[str]) -> None:
        self._journal.batch_submitted(batch.id, job_ids)
        self._absent_since.pop(batch.id, None)
        log.info(
            "batch %s: %d experiment(s) as job %s", batch.id, batch.size, job_ids[0].split("_")[0]
        )

    def _settle(self) -> None:
        for row in self._journal.batches(BatchState.SUBMITTING):
            batch = self._batch(row)
            sought = self._scheduler.seek(batch, row.created_at)
            now = self._clock()
            if sought.verdict is Verdict.FOUND and sought.submission is not None:
                log.info("batch %s: found in the scheduler, adopted", batch.id)
                self._adopt(batch, sought.submission.job_ids)
            elif sought.verdict is Verdict.UNAVAILABLE:
                self._absent_since.pop(batch.id, None)
            elif now - self._absent_since.setdefault(batch.id, now) >= self._site.settle:
                log.info("batch %s: never reached the scheduler, submitted again", batch.id)
                self._absent_since.pop(batch.id)
                self._journal.set_batch(batch.id, BatchState.READY)

    def _back_off(self) -> None:
        self._not_before = self._clock() + self._pause
        self._pause = min(_LONGEST_PAUSE, self._pause * 2)

    def _batch(self, row: BatchRow) -> Batch:
        return Batch(row.id, row.spec, row.size, self._spool.batch_folder(row.id))
