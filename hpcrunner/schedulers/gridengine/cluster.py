"""Ask Grid Engine about jobs, and delete them.

A look-up costs one qstat, and where it can say more a qacct (see ledger.py), however many jobs
there are.
"""

from __future__ import annotations

import logging
import os
import pwd
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from hpcrunner.batch.batch import Batch
from hpcrunner.notices import Notices
from hpcrunner.schedulers.command import CommandFailed, Completed, Runner, run
from hpcrunner.schedulers.contract import (
    Job,
    SchedulerUnavailable,
    Sighting,
    Sought,
    Submission,
    Verdict,
)
from hpcrunner.schedulers.gridengine import qacct, qdel, qstat
from hpcrunner.schedulers.gridengine.environment import accounting_file, query_environment
from hpcrunner.schedulers.gridengine.ledger import Ledger
from hpcrunner.schedulers.gridengine.sightings import UNAVAILABLE, Health, sighting
from hpcrunner.schedulers.gridengine.states import known, over
from hpcrunner.schedulers.listing import Listing

log = logging.getLogger(__name__)

_JOB_ID = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_TIMEOUT = 60.0  # s; the accounting file of a large site is gigabytes


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


@dataclass(slots=True)
class GridEngine:
    """The cell as this user's commands see it.

    ``accounting`` False: qacct has no data here. ``lag`` is how long it may be behind, seconds.
    """

    accounting: bool = True
    lag: float = 120.0
    timeout: float = _TIMEOUT
    user: str = field(default_factory=_user)
    runner: Runner = run
    environment: Mapping[str, str] = field(default_factory=lambda: query_environment(os.environ))
    clock: Callable[[], float] = time.monotonic
    listing: Listing[qstat.LiveJob] = field(default_factory=Listing)
    _letter: str = field(default=qstat.ENDED[0], repr=False)
    _ledger: Ledger = field(init=False, repr=False)
    _over_since: dict[Job, float] = field(default_factory=dict, repr=False)
    _notices: Notices = field(default_factory=lambda: Notices(log), repr=False)
    _told: set[str] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        file = accounting_file(self.environment)
        self._ledger = Ledger(self.user, self._ask, file, self.lag / 2, self.clock)

    def look_up(self, jobs: Sequence[Job], since: float) -> Mapping[Job, Sighting]:
        """See Scheduler.look_up."""
        # An id of another form was given by another scheduler: this one knows nothing of it.
        asked = [job for job in dict.fromkeys(jobs) if _JOB_ID.fullmatch(job.id)]
        live = self._live() if asked else {}
        open_jobs = [job for job in asked if live is None or self._over(live.get(job))]
        accounts = self._accounts(open_jobs, since) if self.accounting and open_jobs else None
        health = Health(live is not None, (accounts is not None) if self.accounting else None)
        self._watch(live, accounts)
        seen = dict.fromkeys(jobs, UNAVAILABLE)
        for job in asked:
            account = accounts.find(job) if accounts is not None else None
            row = (live or {}).get(job)
            seen[job] = sighting(row, account, health, lingers=self._lingers(job))
        return seen

    def seek(self, batches: Sequence[Batch], since: float) -> Mapping[str, Sought]:
        """See Scheduler.seek."""
        found: dict[str, set[str]] = {}
        healthy = True
        try:
            for row in self.listing.rows(self._list):
                found.setdefault(row.name, set()).add(row.base)
        except SchedulerUnavailable as error:
            self._notices.warn(error.where, error.line())
            healthy = False
        hidden = [batch.name for batch in batches if batch.name not in found]
        if hidden and self.accounting:
            try:
                for job in self._accounted(hidden, since).runs:
                    found.setdefault(job.name, set()).add(job.id.partition(".")[0])
            except SchedulerUnavailable as error:
                self._notices.warn(error.where, error.line())
                healthy = False
        absent = Sought(Verdict.NOT_FOUND if healthy else Verdict.UNAVAILABLE)
        return {
            batch.id: Sought(Verdict.FOUND, _submission(batch, found[batch.name]))
            if batch.name in found
            else absent
            for batch in batches
        }

    def cancel(self, jobs: Sequence[Job]) -> None:
        """See Scheduler.cancel. Only ids that bear the batch's name are deleted."""
        self.listing.clear()
        known_jobs = qstat.by_job(self.listing.rows(self._list))
        ours = [job.id for job in jobs if not self._over(known_jobs.get(job))]
        self.listing.clear()
        for argv in qdel.argvs(ours):
            qdel.parse(self._ask(argv))

    def changed(self) -> None:
        """Something is about to be submitted: answers from before are stale."""
        self.listing.clear()

    def _list(self) -> list[qstat.LiveJob]:
        done = self._ask(qstat.argv(self.user, self._letter))
        if qstat.knows_no_such_state(done):
            self._letter = next(letter for letter in qstat.ENDED if letter != self._letter)
            done = self._ask(qstat.argv(self.user, self._letter))
        rows = qstat.parse(done)
        self._notices.over("qstat", "qstat answers again")
        for row in rows:
            if not known(row.word) and row.word not in self._told:
                self._told.add(row.word)
                log.warning("the job state %s is new to hpcrunner: taken as running", row.word)
        return rows

    def _live(self) -> dict[Job, qstat.LiveJob] | None:
        try:
            return qstat.by_job(self.listing.rows(self._list))
        except SchedulerUnavailable as error:
            self._notices.warn(error.where, error.line())
            return None

    def _accounts(self, jobs: Sequence[Job], since: float) -> qacct.Accounts | None:
        def missing(accounts: qacct.Accounts) -> bool:
            return any(job not in accounts.runs for job in jobs)

        try:
            accounts = self._ledger.look(since, missing)
        except SchedulerUnavailable as error:
            self._notices.warn(error.where, error.line())
            return None
        self._notices.over("qacct", "qacct answers again")
        return accounts

    def _accounted(self, names: Collection[str], since: float) -> qacct.Accounts:
        """By all that there is: where a name is absent, its batch is submitted again."""

        def missing(accounts: qacct.Accounts) -> bool:
            return not {job.name for job in accounts.runs}.issuperset(names)

        accounts = self._ledger.whole(since, missing)
        self._notices.over("qacct", "qacct answers again")
        return accounts

    def _ask(self, argv: Sequence[str]) -> Completed:
        try:
            return self.runner(argv, timeout=self.timeout, environment=self.environment)
        except CommandFailed as error:
            raise SchedulerUnavailable(
                error.what, where=error.where, remedy=error.remedy
            ) from error

    def _over(self, row: qstat.LiveJob | None) -> bool:
        return row is None or over(row.word)

    def _watch(
        self, live: Mapping[Job, qstat.LiveJob] | None, accounts: qacct.Accounts | None
    ) -> None:
        """Keep since when each zombie has been without an account, by a healthy accounting."""
        if live is None or accounts is None:
            return
        now = self.clock()
        self._over_since = {
            job: self._over_since.get(job, now)
            for job, row in live.items()
            if over(row.word) and accounts.find(job) is None
        }

    def _lingers(self, job: Job) -> bool:
        since = self._over_since.get(job)
        return since is not None and self.clock() - since >= self.lag


def _submission(batch: Batch, bases: set[str]) -> Submission:
    """The batch's ids from the number that the master gave: ``123``, or ``123.1`` to ``123.N``."""
    if len(bases) > 1:
        log.error("%s was submitted %d times: jobs %s", batch.name, len(bases), sorted(bases))
    base = min(bases, key=int)
    if batch.size == 1:
        return Submission((base,))
    return Submission(tuple(f"{base}.{index}" for index in range(1, batch.size + 1)))
