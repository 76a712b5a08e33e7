"""The attempt that follows one that has ended, by the site's budgets and the request's wishes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.admission import admit
from hpcrunner.gateway.experiment import Experiment, Outcome, State
from hpcrunner.gateway.happenings import Ended, Happening, Retried
from hpcrunner.gateway.journal import Journal, NextAttempt
from hpcrunner.gateway.preparation import Failed
from hpcrunner.gateway.retries import Wish, exhausted, fault_of, next_attempt
from hpcrunner.request.faults import Fault
from hpcrunner.sites.rules import rule_named
from hpcrunner.sites.site import Site

log = logging.getLogger(__name__)


def following(
    journal: Journal, site: Site, e: Experiment, outcome: Outcome, now: float
) -> NextAttempt | None:
    """The next attempt of an experiment whose present one ended so, if one is due."""
    if fault_of(outcome) is Fault.NONE:
        return None
    try:
        rule = rule_named(site.rules, e.rule)
        request = admit(journal.message(e.id), site, e.received_at, rule).request
        wish = Wish(request.retries, request.expires_at)
    except HpcrunnerError as error:
        # The site has changed; the next attempt, when it is formed, says what is wrong.
        log.warning("%s: %s", e.id, error.line())
        wish = Wish()
    return next_attempt(e, outcome, site.retries, wish, now)


def end_unprepared(
    journal: Journal, site: Site, failed: Sequence[tuple[Experiment, Failed]], now: float
) -> list[Happening]:
    """Write down that these attempts ended, though nothing was submitted; returns what to tell."""
    again: list[Retried] = []
    final: list[Ended] = []
    for e, failure in failed:
        outcome = Outcome(State.FAILED, failure.reason, failure.text)
        next_ = following(journal, site, e, outcome, now)
        if next_ is not None:
            again.append(Retried(next_))
        else:
            final.append(Ended(e, replace(outcome, text=outcome.text + exhausted(e, outcome))))
        log.warning(
            "%s could not be prepared: %s (%s)",
            e.id,
            failure.text,
            next_.text if next_ else "no further attempt is due",
            extra={"experiment": e.id, "queue": e.queue, "reason": failure.reason.value},
        )
    if again:
        journal.retry([retried.following for retried in again])
    journal.end([(ended.experiment.id, ended.outcome) for ended in final])
    return [*again, *final]
