"""From waiting experiments to submitted batches, one run of each attempt whatever happens.

The order is the protocol: the batch's folder is written and synced, the journal says
SUBMITTING, the scheduler is asked, the journal says SUBMITTED. A batch found as SUBMITTING
(after a crash, or because the scheduler's answer was uncertain) is looked up by its name and
adopted; it is submitted again only after it has been absent, with every witness healthy, for
the site's settle time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.script import render_script
from hpcrunner.crashpoint import crashpoint
from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.admission import admit
from hpcrunner.gateway.capacity import UNLIMITED, Capacity, Load, fitting, load_of, obstacle
from hpcrunner.gateway.experiment import Experiment, Outcome, State
from hpcrunner.gateway.fairness import Turn, in_turn, within_caps
from hpcrunner.gateway.following import end_unprepared
from hpcrunner.gateway.happenings import Ended, Submitted, Tell, nobody
from hpcrunner.gateway.journal import Journal
from hpcrunner.gateway.pace import SubmitRate
from hpcrunner.gateway.preparation import LOOK_AGAIN, Preparations
from hpcrunner.gateway.reader import BatchRow, BatchState
from hpcrunner.gateway.recovery import take_up_folders
from hpcrunner.gateway.retries import retries_left
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
from hpcrunner.sites.rules import rule_named
from hpcrunner.sites.site import Site
from hpcrunner.sites.spec import JobSpec

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 120.0
_LONGEST_SETTLE_PAUSE = 15.0
_DOUBTFUL_PAUSE = 60.0
_WITH_THE_SCHEDULER = (State.SUBMITTING, State.PENDING, State.RUNNING)
_NO_ROOM = "the gateway's own limits (--max-cores, --max-mem, --max-disk)"


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
        self._capacity = capacity
        self._full = False
        self._turn = Turn()
        self._preparations = preparations or Preparations(clock=clock)
        self._waiting: tuple[Experiment, ...] = ()  # due, and nothing is left to be prepared
        self._preparing = False
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
        self._take_turns()

    def step(self, go_on: Callable[[], bool] = lambda: True) -> int:
        """Settle what is uncertain, then submit what waits; returns how many were submitted.

        Between two submissions ``go_on`` may say no.

        Raises JournalError or SpoolError where nothing can be written down: then nothing was
        submitted that the journal does not know of.
        """
        if self._clock() >= self._settle_at:
            self.settle()
        self._prepare()
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
        for spec, group in self._groups():
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
        accepted = self._journal.next_due()
        if accepted is not None and (self._preparing or not self._full):
            looks = self._preparing and (self._full or not self._waiting)
            look_again = now + LOOK_AGAIN if looks else now
            due.append(max(begin, accepted, look_again))
        return max(0.05, min(due) - now) if due else None

    def uncertain(self) -> bool:
        """True while a batch may or may not have reached the scheduler."""
        return bool(self._journal.batches(BatchState.SUBMITTING))

    @property
    def held(self) -> Mapping[str, int]:
        """How many of each queue the site's rules held back at the last step."""
        return self._turn.held_of

    def _take_turns(self) -> tuple[Experiment, ...]:
        """What is due and may go by the site's rules, in fair order."""
        due = self._journal.due(self._clock())
        crowd = self._journal.crowd(*_WITH_THE_SCHEDULER) if due else {}
        chosen = {e.id for e in self._turn.go}
        self._turn = within_caps(in_turn(due, crowd), self._site.rules, crowd, chosen)
        news = [(e.id, text) for e, text in self._turn.held if e.pending != text]
        if news:
            self._journal.waits(news)
        return self._turn.go

    def _prepare(self) -> None:
        """See what may be submitted now; begin to prepare the others, and end what failed."""
        look = self._preparations.look(self._take_turns(), self._planned)
        self._waiting, self._preparing = look.go, look.preparing
        if look.failed:
            told = end_unprepared(self._journal, self._site, look.failed, self._clock())
            crashpoint("preparation.ended")
            for happening in told:
                self._tell(happening)
        if look.remarks:
            self._journal.waits(look.remarks)

    def _groups(self) -> Iterator[tuple[JobSpec, list[Experiment]]]:
        """Waiting experiments of one shape, each as its first one's turn comes, within the room
        that the site has.
        """
        limits = self._site.limits
        self._full = False
        waiting = self._possible(self._waiting)
        room = limits.max_jobs - self._journal.count(*_WITH_THE_SCHEDULER) if waiting else 0
        groups: dict[JobSpec, list[Experiment]] = {}
        for e in waiting[: max(0, room)]:
            if e.spec is not None:
                groups.setdefault(e.spec, []).append(e)
        load = self._load() if groups else Load()
        for spec, members in groups.items():
            while members:
                size = min(len(members), limits.largest_array)
                size = fitting(spec, self._capacity, load, size)
                if size == 0:
                    # Smaller ones behind it wait too, or it would wait for ever.
                    self._full = True
                    self._wait_for_room()
                    return
                group, members = members[:size], members[size:]
                load = load.plus(spec, size)
                yield spec, group
        self._full = len(waiting) > room or bool(self._turn.held)

    def _possible(self, waiting: Sequence[Experiment]) -> list[Experiment]:
        """Those that fit within the gateway's own limits; the others are set aside."""
        obstacles: dict[str, list[Experiment]] = {}
        possible = []
        for e in waiting:
            text = obstacle(e.spec, self._capacity) if e.spec is not None else ""
            if text:
                obstacles.setdefault(text, []).append(e)
            else:
                possible.append(e)
        for text, members in obstacles.items():
            self._set_aside(members, Reason.REJECTED, f"{text}; ask for less")
        return possible

    def _load(self) -> Load:
        """What is with the scheduler asks for, as far as anybody wants to know."""
        if not self._capacity.limited:
            return Load()
        there = self._journal.in_state(*_WITH_THE_SCHEDULER)
        return load_of(e.spec for e in there if e.spec is not None)

    def _wait_for_room(self) -> None:
        ready = {e.id for e in self._waiting}
        due = self._journal.due(self._clock())
        left = [e.id for e in due if e.id in ready and e.pending != _NO_ROOM]
        if left:
            self._journal.waits((experiment, _NO_ROOM) for experiment in left)

    def _form(self, spec: JobSpec, group: Sequence[Experiment]) -> Batch | None:
        planned = [
            self._preparations.apply(e, p) for e in group if (p := self._planned(e)) is not None
        ]
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

    def _planned(self, experiment: Experiment) -> PlannedExperiment | None:
        message = self._journal.message(experiment.id)
        try:
            # Judged at its arrival: what was in time then is not refused for waiting here.
            rule = rule_named(self._site.rules, experiment.rule)
            admission = admit(message, self._site, experiment.received_at, rule)
            retries = retries_left(experiment, self._site.retries, admission.request.retries)
            # The job has the shape that was journalled, whatever the site says by now.
            admission = replace(admission, spec=experiment.spec or admission.spec)
            return admission.planned(
                experiment=experiment.id, attempt=experiment.attempt, retries=retries
            )
        except HpcrunnerError as error:
            # The site file has changed since it was accepted.
            self._set_aside([experiment], Reason.REJECTED, error.line())
            return None

    def _set_aside(self, experiments: Sequence[Experiment], reason: Reason, text: str) -> None:
        outcome = Outcome(State.REJECTED, reason, text)
        self._journal.end([(e.id, outcome) for e in experiments])
        for e in experiments:
            log.warning(
                "%s set aside: %s", e.id, text, extra={"experiment": e.id, "queue": e.queue}
            )
            self._tell(Ended(e, outcome))

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
        if batch.spec.partition:
            line = f"partition {batch.spec.partition}: {line}"
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
