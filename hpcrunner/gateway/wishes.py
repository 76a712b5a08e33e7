"""What people ask of experiments that are there: cancel, retry, drop.

A wish is a file in the spool, so that it can be left while the gateway is away or works on
another node. It is taken up once it is journalled, and a wish to cancel is kept in the journal
until the experiment has ended: the scheduler is asked again and again until it agrees.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from hpcrunner.crashpoint import crashpoint
from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.admission import admit, admit_request, rule_of
from hpcrunner.gateway.digests import came_sealed, digests_of
from hpcrunner.gateway.experiment import Experiment, Outcome, Reports, State
from hpcrunner.gateway.happenings import Ended, Received, Tell, nobody
from hpcrunner.gateway.journal import Journal, NewExperiment
from hpcrunner.gateway.opening import Opener
from hpcrunner.gateway.spool import Spool, Verb
from hpcrunner.request.reasons import Reason
from hpcrunner.schedulers.contract import Scheduler, SchedulerUnavailable
from hpcrunner.sites.rules import rule_for
from hpcrunner.sites.site import Site

log = logging.getLogger(__name__)

_CANCEL_AGAIN = 30.0
_BEFORE_SUBMITTED = Outcome(
    State.CANCELLED, Reason.CANCELLED, "was cancelled before it was submitted"
)


class Wishes:
    """Takes wishes up, and follows those to cancel until they are true."""

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
        opener: Opener | None = None,
    ) -> None:
        self._opener = opener or Opener()
        self._journal = journal
        self._spool = spool
        self._scheduler = scheduler
        self._site = site
        self._clock = clock
        self._new_id = new_id
        self._tell = tell
        self._asked: dict[str, float] = {}

    def step(self) -> bool:
        """One round; True where the scheduler was asked to end something.

        Raises JournalError where a wish could not be written down; its file stays then.
        """
        self._take(Verb.CANCEL, self._journal.wish_cancel)
        self._take(Verb.DROP, self._journal.drop)
        retries = self._spool.wishes(Verb.RETRY)
        if retries:
            self._opener.refresh()
        aside = {e.id: e for e in self._journal.aside()} if retries else {}
        for experiment in retries:
            if experiment in aside:  # else it was dropped or retried already
                self._retry(aside[experiment])
            self._spool.wish_taken(Verb.RETRY, experiment)
        return self._cancel()

    def _take(self, verb: Verb, write: Callable[[list[str]], None]) -> None:
        wished = self._spool.wishes(verb)
        if not wished:
            return
        write(wished)
        crashpoint("wishes.journalled")
        for experiment in wished:
            self._spool.wish_taken(verb, experiment)

    def _retry(self, old: Experiment) -> None:
        """Have an experiment of the dead list run again, by the site as it is now."""
        message = self._journal.message(old.id)
        digest = self._journal.digest(old.id)
        now = self._clock()
        try:
            if old.spec is None:
                digest = digests_of(message).of_run
                # It was refused, so that nobody has looked whether it may be clear text.
                opened = self._opener.open(old.queue, old.server, message)
                message = opened.clear
                rule = rule_of(opened.request, self._site, old.queue, signed=opened.signed)
                admission = admit_request(opened.request, self._site, now, rule)
            else:
                signed = came_sealed(digest, message) or self._opener.is_ours(old.queue, old.server)
                rule = rule_for(self._site.rules, queue=old.queue, owner=old.owner, signed=signed)
                admission = admit(message, self._site, now, rule)
        except HpcrunnerError as error:
            log.warning("%s: cannot be retried: %s", old.id, error.line())
            self._journal.remark([old.id], f"could not be retried: {error.line()}")
            return
        new = Experiment(
            id=self._new_id(),
            key=admission.request.key,
            queue=old.queue,
            state=State.ACCEPTED,
            received_at=now,
            attempt=old.attempt + 1,
            spec=admission.spec,
            text=f"retried from {old.id}",
            owner=admission.request.owner,
            project=admission.request.project,
            server=old.server,
            reports=Reports.NONE if old.reports is Reports.NONE else Reports.DUE,
            rule=rule.name if rule else "",
        )
        if old.batch:
            self._spool.fence(old.batch, old.task)
        crashpoint("wishes.fenced")
        self._journal.retry_aside(old.id, NewExperiment(new, message, digest))
        crashpoint("wishes.retried")
        log.info("%s: retried as %s", old.id, new.id, extra={"experiment": old.id})
        self._tell(Received(new))

    def _cancel(self) -> bool:
        wished = self._journal.cancel_wished()
        never_left = [e for e in wished if e.state is State.ACCEPTED]
        if never_left:
            self._journal.end([(e.id, _BEFORE_SUBMITTED) for e in never_left])
            for e in never_left:
                self._tell(Ended(e, _BEFORE_SUBMITTED))
        now = self._clock()
        self._asked = {e.id: self._asked[e.id] for e in wished if e.id in self._asked}
        due = [e for e in wished if e.job_id and now - self._asked.get(e.id, 0.0) >= _CANCEL_AGAIN]
        if not due:
            return False
        try:
            self._scheduler.cancel([e.job for e in due])
        except SchedulerUnavailable as error:
            log.warning("cancel: %s; asked again later", error.line())
            return False
        crashpoint("wishes.asked")
        self._asked.update((e.id, now) for e in due)
        return True
