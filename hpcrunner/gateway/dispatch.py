"""From waiting experiments to submitted batches, one run of each attempt whatever happens.

The order is the protocol: the batch's folder is written and synced, the journal says
SUBMITTING, the scheduler is asked, the journal says SUBMITTED. A batch found as SUBMITTING
(after a crash, or because the scheduler's answer was uncertain) is looked up by its name and
adopted; it is submitted again only after it has been absent, with every witness healthy, for
the site's settle time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.script import render_script
from hpcrunner.crashpoint import crashpoint
from hpcrunner.gateway.capacity import UNLIMITED, Capacity
from hpcrunner.gateway.experiment import Experiment, Outcome, State
from hpcrunner.gateway.happenings import Ended, Submitted, Tell, nobody
from hpcrunner.gateway.journal import Journal
from hpcrunner.gateway.lineup import Lineup
from hpcrunner.gateway.pace import SubmitRate
from hpcrunner.gateway.preparation import Preparations
from hpcrunner.gateway.reader import BatchRow, BatchState
from hpcrunner.gateway.recovery import take_up_folders
from hpcrunner.gateway.spool import Spool
from hpcrunner.request.plan import Plan
from hpcrunner.request.reasons import Reason
from hpcrunner.schedulers.contract import (
    Scheduler,
    SubmitRefused,
    SubmitUncertain,
    Verdict,
)
from hpcrunner.sites.gpu_choice import size_text
from hpcrunner.sites.node_setup import node_setup
from hpcrunner.sites.site import Site
from hpcrunner.sites.spec import JobSpec

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 120.0
_LONGEST_SETTLE_PAUSE = 15.0
_DOUBTFUL_PAUSE = 60.0


class Dispatch:
    """Submits what is next at the site's rate, and settles the uncertain batches."""

    def __init__(
        self,
        journal: Journal,
        spool: Spool,
        scheduler: Scheduler,
        site: Site,
        *,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        tell: Tell = nobody,
        capacity: Capacity = UNLIMITED,
        preparations: Preparations | None = None,
    ) -> None:
        self._journal = journal
        self._spool = spool
        self._scheduler = scheduler
        self._site = site
        self._clock = clock
        self._new_id = new_id
        self._tell = tell
        self._lineup = Lineup(
            journal,
            site,
            clock=clock,
            tell=tell,
            capacity=capacity,
            preparations=preparations or Preparations(clock=clock),
        )
        rate = site.limits.submit_rate
        self._rate = SubmitRate(rate.count, rate.seconds, clock)
        self._absent_since: dict[str, float] = {}
        self._pause = _FIRST_PAUSE
        self._not_before = 0.0
        self._doubtful: dict[str, float] = {}
        self._doubted_since: dict[str, float] = {}
        self._settle_at = 0.0
        self._settle_pause = _FIRST_PAUSE

    def recover(self) -> None:
        """See to batch folders that no row names, before anything is submitted: recovery.py."""
        take_up_folders(self._journal, self._spool)
        self._lineup.take_turns()

    def step(self, go_on: Callable[[], bool] = lambda: True) -> int:
        """Settle what is uncertain, then submit what waits; returns how many were submitted.

        Between two submissions ``go_on`` may say no.

        Raises JournalError or SpoolError where nothing can be written down: then nothing was
        submitted that the journal does not know of.
        """
        if self._clock() >= self._settle_at:
            self.settle()
        self._lineup.look()  # also while it backs off: preparations go on meanwhile
        if self._clock() < self._not_before:
            return 0
        submitted = 0
        for row in self._journal.batches(BatchState.READY):
            if self._doubtful.get(row.id, 0.0) > self._clock():
                continue
            if not go_on() or not self._rate.take():
                return submitted
            self._journal.set_batch(row.id, BatchState.SUBMITTING)
            crashpoint("dispatch.batch_resumed")
            submitted += self._submit(self._batch(row))
            if self._clock() < self._not_before:
                return submitted
        for spec, group in self._lineup.groups():
            if not go_on() or not self._rate.take():
                break
            batch = self._form(spec, group)
            submitted += self._submit(batch) if batch else 0
            if self._clock() < self._not_before:
                break
        return submitted

    def wait(self) -> float | None:
        """Seconds until a step has something to do of itself, None while nothing waits."""
        now = self._clock()
        due: list[float] = []
        if self._journal.batches(BatchState.SUBMITTING):
            due.append(self._settle_at)
        begin = max(now + self._rate.wait(), self._not_before)
        due += [
            max(begin, self._doubtful.get(row.id, 0.0))
            for row in self._journal.batches(BatchState.READY)
        ]
        looks_at = self._lineup.looks_at()
        if looks_at is not None:
            due.append(max(begin, looks_at))
        return max(0.05, min(due) - now) if due else None

    def uncertain(self) -> bool:
        """True while a batch may or may not have reached the scheduler."""
        return bool(self._journal.batches(BatchState.SUBMITTING))

    @property
    def held(self) -> Mapping[str, int]:
        """How many of each queue the site's rules held back at the last step."""
        return self._lineup.held

    def _form(self, spec: JobSpec, group: Sequence[Experiment]) -> Batch | None:
        planned = [p for e in group if (p := self._lineup.planned(e)) is not None]
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
        crashpoint("dispatch.folder_written")
        members = {task: p.id for task, p in enumerate(planned, start=1)}
        self._journal.begin_batch(batch_id, spec, members, size=len(planned))
        crashpoint("dispatch.batch_begun")
        return batch

    def _submit(self, batch: Batch) -> int:
        """Submit a batch; returns how many experiments were taken."""
        try:
            submission = self._scheduler.submit(batch)
        except SubmitUncertain as error:
            log.warning("batch %s: %s; looking it up before anything else", batch.id, error.line())
            self._settle_soon()
            self._back_off()
            return 0
        except SubmitRefused as error:
            if error.doubtful and not batch.spec.exclude:
                self._doubt(batch, error.line())
            elif error.passing and not error.doubtful:
                log.warning("batch %s: refused for now: %s", batch.id, error.line())
                self._journal.set_batch(batch.id, BatchState.READY, error.line())
                self._back_off()
            else:
                self._refused(batch, error.line())
            return 0
        crashpoint("dispatch.submitted")
        self._pause = _FIRST_PAUSE
        self._trust(batch)
        self._adopt(batch, submission.job_ids)
        return batch.size

    def _doubt(self, batch: Batch, line: str) -> None:
        """A refusal that may be for good: tried now and then, for a while, and in nobody's way."""
        now = self._clock()
        since = self._doubted_since.setdefault(batch.id, now)
        if now - since >= self._site.stuck_after:
            self._trust(batch)
            self._refused(batch, line)
            return
        log.warning("batch %s: refused: %s; tried again later", batch.id, line)
        self._journal.set_batch(batch.id, BatchState.READY, line)
        self._doubtful[batch.id] = now + _DOUBTFUL_PAUSE

    def _trust(self, batch: Batch) -> None:
        self._doubtful.pop(batch.id, None)
        self._doubted_since.pop(batch.id, None)

    def _refused(self, batch: Batch, line: str) -> None:
        """A refusal for good; the nodes that retries keep off may be all there are."""
        line = f"{asked_for(batch.spec)}: {line}"
        if batch.spec.exclude:
            log.warning("batch %s: refused: %s; tried with all nodes", batch.id, line)
            why = f"waits without keeping off {', '.join(batch.spec.exclude)}: {line}"
            self._journal.regroup(batch.id, replace(batch.spec, exclude=()), why)
        else:
            log.error("batch %s: refused: %s", batch.id, line, extra={"batch": batch.id})
            members = self._journal.members(batch.id)
            self._journal.batch_refused(batch.id, line)
            outcome = Outcome(State.REJECTED, Reason.SUBMIT_REFUSED, line)
            for member in members:
                self._tell(Ended(member, outcome))
        crashpoint("dispatch.refused")
        self._spool.remove_batch(batch.id)

    def _adopt(self, batch: Batch, job_ids: Sequence[str]) -> None:
        self._journal.batch_submitted(batch.id, job_ids)
        crashpoint("dispatch.adopted")
        self._absent_since.pop(batch.id, None)
        log.info(
            "batch %s: %d experiment(s) as job %s",
            batch.id,
            batch.size,
            job_ids[0].split("_")[0],
            extra={"batch": batch.id},
        )
        self._tell(Submitted(batch.size))

    def settle(self) -> None:
        """Look up what may or may not have reached the scheduler: adopted, or free to go again."""
        rows = self._journal.batches(BatchState.SUBMITTING)
        if not rows:
            self._settle_pause = _FIRST_PAUSE
            return
        batches = [self._batch(row) for row in rows]
        sought = self._scheduler.seek(batches, min(row.created_at for row in rows))
        now = self._clock()
        for batch in batches:
            answer = sought[batch.id]
            if answer.verdict is Verdict.FOUND and answer.submission is not None:
                log.info("batch %s: found in the scheduler, adopted", batch.id)
                self._adopt(batch, answer.submission.job_ids)
            elif answer.verdict is Verdict.UNAVAILABLE:
                self._absent_since.pop(batch.id, None)
            elif now - self._absent_since.setdefault(batch.id, now) >= self._site.settle:
                log.info("batch %s: never reached the scheduler, submitted again", batch.id)
                self._absent_since.pop(batch.id)
                self._journal.set_batch(batch.id, BatchState.READY)
                crashpoint("dispatch.settled")
        self._settle_at = now + self._settle_pause
        self._settle_pause = min(_LONGEST_SETTLE_PAUSE, self._settle_pause * 1.5)

    def _settle_soon(self) -> None:
        self._settle_pause = _FIRST_PAUSE
        self._settle_at = self._clock() + _FIRST_PAUSE

    def _back_off(self) -> None:
        self._not_before = self._clock() + self._pause
        self._pause = min(_LONGEST_PAUSE, self._pause * 2)

    def _batch(self, row: BatchRow) -> Batch:
        return Batch(row.id, row.spec, row.size, self._spool.batch_folder(row.id))


def asked_for(spec: JobSpec) -> str:
    """What was asked for, in words: a scheduler's refusal rarely says which of it was too much."""
    where = f"partition {spec.partition}, " if spec.partition else ""
    parts = [f"{spec.cpus} CPU{'s' if spec.cpus > 1 else ''}"]
    if spec.memory:
        parts.append(size_text(spec.memory))
    if spec.gpus:
        of = f" of type {spec.gpu_type}" if spec.gpu_type else ""
        parts.append(f"{spec.gpus} GPU{'s' if spec.gpus > 1 else ''}{of}")
    return f"{where}{', '.join(parts)}"
