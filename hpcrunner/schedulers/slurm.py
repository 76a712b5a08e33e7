"""Ask Slurm about jobs, and end them: what all backends for Slurm share.

A look-up costs one squeue, and one sacct where it can say more, however many jobs there are.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hpcrunner.batch.batch import Batch
from hpcrunner.notices import Notices
from hpcrunner.schedulers import sacct, scancel, scontrol, squeue
from hpcrunner.schedulers.command import CommandFailed, Completed, Runner, run
from hpcrunner.schedulers.contract import (
    Job,
    SchedulerUnavailable,
    Sighting,
    Sought,
    Submission,
    Verdict,
)
from hpcrunner.schedulers.listing import Listing as Listing
from hpcrunner.schedulers.sightings import UNAVAILABLE, Health, sighting
from hpcrunner.schedulers.slurm_environment import query_environment
from hpcrunner.schedulers.states import meaning

log = logging.getLogger(__name__)

_Named = tuple[str, str, str]  # id, state word, node
_JOB_ID = re.compile(r"\d+(?:_\d+)?", re.ASCII)
_REUSE = 86_400  # s before ``since`` from which an account is of another job with this id


@dataclass(frozen=True, slots=True)
class Patience:
    """Time-outs in seconds. A controller that is away holds commands for 9 to 18 s."""

    submit: float = 30.0
    query: float = 25.0
    cancel: float = 30.0


@dataclass(slots=True)
class Slurm:
    """The cluster as this user's commands see it. ``accounting`` False: there is no slurmdbd.

    ``live`` lists the user's jobs in the place of squeue, or raises SchedulerUnavailable.
    """

    accounting: bool = True
    patience: Patience = field(default_factory=Patience)
    runner: Runner = run
    environment: Mapping[str, str] = field(default_factory=lambda: query_environment(os.environ))
    listing: Listing[squeue.LiveJob] = field(default_factory=Listing)
    live: Callable[[], list[squeue.LiveJob]] | None = None
    _notices: Notices = field(default_factory=lambda: Notices(log), repr=False)
    _told: set[str] = field(default_factory=set, repr=False)

    def look_up(self, jobs: Sequence[Job], since: float) -> Mapping[Job, Sighting]:
        """See Scheduler.look_up."""
        asked = [job for job in dict.fromkeys(jobs) if _JOB_ID.fullmatch(job.id)]
        live = self._live() if asked else {}
        open_ids = [
            job.id for job in asked if live is None or job not in live or self._ended(live[job])
        ]
        accounts = self._accounts(open_ids) if self.accounting and open_ids else None
        health = Health(live is not None, (accounts is not None) if self.accounting else None)
        # An id of another form was given by another scheduler: this one knows nothing of it.
        seen = dict.fromkeys(jobs, UNAVAILABLE)
        for job in asked:
            account = accounts.find(job) if accounts is not None else None
            if account is not None and (account.submitted_at or since) < since - _REUSE:
                account = None
            if account is not None:
                self._ended(account)
            removed = accounts is not None and accounts.removed(job, since - _REUSE)
            seen[job] = sighting((live or {}).get(job), account, health, removed=removed)
        return seen

    def seek(self, batches: Sequence[Batch], since: float) -> Mapping[str, Sought]:
        """See Scheduler.seek."""
        found: dict[str, list[_Named]] = {}
        wanted = {batch.name for batch in batches}
        live_answered = True
        try:
            for row in self.listing.rows(self._list):
                if row.name in wanted:
                    found.setdefault(row.name, []).append((row.base, row.word, row.node))
        except SchedulerUnavailable as error:
            self._notices.warn(error.where, error.line())
            live_answered = False
        hidden = [batch.name for batch in batches if batch.name not in found]
        accounting_answered = True
        if hidden and self.accounting:
            try:
                found.update(self._accounted_by_name(hidden, since))
            except SchedulerUnavailable as error:
                self._notices.warn(error.where, error.line())
                accounting_answered = False
        absent = live_answered and accounting_answered
        verdict = Verdict.NOT_FOUND if absent else Verdict.UNAVAILABLE
        return {
            batch.id: Sought(Verdict.FOUND, submission(batch, _the_one(batch, found[batch.name])))
            if batch.name in found
            else Sought(verdict)
            for batch in batches
        }

    def _accounted_by_name(self, names: Sequence[str], since: float) -> dict[str, list[_Named]]:
        found: dict[str, list[_Named]] = {}
        for argv in sacct.argvs_by_name(names, since):
            for job in self._accounted(argv).all():
                found.setdefault(job.name, []).append((job.base, job.word, job.node))
        return {name: jobs for name, jobs in found.items() if name in names}

    def changed(self) -> None:
        """Something is about to be submitted: answers from before are stale."""
        self.listing.clear()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """See Scheduler.cancel.

        Only ids that bear the batch's name are ended. scancel(1) has ``--name``, but given with
        some tasks of an array it ends all that wait with them (seen with 22.05).
        """
        self.listing.clear()
        known = squeue.by_job(self.listing.rows(self._list))
        ours = [job.id for job in jobs if job in known]
        self.listing.clear()
        for argv in scancel.argvs(ours):
            scancel.parse(self._ask(argv, timeout=self.patience.cancel))

    def config(self) -> scontrol.ClusterConfig:
        """What the cluster says of itself. Raises SchedulerUnavailable."""
        return scontrol.parse(self._ask(scontrol.ARGV))

    def _list(self) -> list[squeue.LiveJob]:
        if self.live is not None:
            rows = self.live()
            self._notices.over("pyslurm", "pyslurm answers again")
            return rows
        rows = squeue.parse(self._ask(squeue.ARGV))
        self._notices.over("squeue", "squeue answers again")
        return rows

    def _live(self) -> dict[Job, squeue.LiveJob] | None:
        try:
            return squeue.by_job(self.listing.rows(self._list))
        except SchedulerUnavailable as error:
            self._notices.warn(error.where, error.line())
            return None

    def _accounts(self, job_ids: Sequence[str]) -> sacct.Accounts | None:
        try:
            return sacct.merged([self._accounted(argv) for argv in sacct.argvs(job_ids)])
        except SchedulerUnavailable as error:
            self._notices.warn(error.where, error.line())
            return None

    def _accounted(self, argv: Sequence[str]) -> sacct.Accounts:
        accounts = sacct.parse(self._ask(argv))
        self._notices.over("sacct", "sacct answers again")
        return accounts

    def _ask(self, argv: Sequence[str], *, timeout: float | None = None) -> Completed:
        try:
            return self.runner(
                argv, timeout=timeout or self.patience.query, environment=self.environment
            )
        except CommandFailed as error:
            raise SchedulerUnavailable(
                error.what, where=error.where, remedy=error.remedy
            ) from error

    def _ended(self, job: squeue.LiveJob | sacct.AccountedJob) -> bool:
        said = meaning(job.word)
        if not said.known and job.word not in self._told:
            self._told.add(job.word)
            log.warning("Slurm's job state %s is new to hpcrunner: taken as running", job.word)
        return said.ended


def _the_one(batch: Batch, jobs: Sequence[_Named]) -> str:
    """The id of the batch's job, out of (id, state word, node) of all that bear its name.

    Slurm keeps a job that it has refused for its node configuration, FAILED and without a node;
    a later submission of the same batch is the real one.
    """
    bases = {base for base, _, _ in jobs}
    real = {base for base, word, node in jobs if word != "FAILED" or node}
    if len(real) > 1:
        log.error("%s was submitted %d times: jobs %s", batch.name, len(real), sorted(real))
    return min(real or bases, key=int)


def submission(batch: Batch, base: str) -> Submission:
    """The batch's ids from the id that Slurm gave: ``123``, or ``123_1`` to ``123_N``."""
    if batch.size == 1:
        return Submission((base,))
    return Submission(tuple(f"{base}_{index}" for index in range(1, batch.size + 1)))
