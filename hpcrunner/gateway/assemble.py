"""The gateway put together for a site: spool, lock, journal, scheduler, sources."""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from hpcrunner.batch.script import check_templates
from hpcrunner.gateway.dispatch import Dispatch
from hpcrunner.gateway.gateway import NO_LIMITS, Gateway, Limits
from hpcrunner.gateway.intake import Intake
from hpcrunner.gateway.journal import Journal
from hpcrunner.gateway.lock import SpoolLock
from hpcrunner.gateway.spool import SUBMIT_QUEUE, Spool
from hpcrunner.gateway.track import Track
from hpcrunner.queues.sources import QueueOptions, sources_from
from hpcrunner.schedulers.choose import open_scheduler
from hpcrunner.sites.site import Site

log = logging.getLogger(__name__)

_SPOOL = "spool"  # nobody else claims from the spool's own queue
_LOCK_PATIENCE = 2.0


def spool_of(site: Site) -> Spool:
    """The site's spool, not yet prepared."""
    return Spool(site.spool_path)


def gateway_id(site: Site) -> str:
    """What this spool's gateway is called where it claims messages: the same after a restart,
    so that it finds again what it had taken when it died.
    """
    return hashlib.sha256(str(site.spool_path).encode()).hexdigest()[:12]


def experiment_id() -> str:
    """A new experiment or batch id: 12 hex digits."""
    return secrets.token_hex(6)


@contextmanager
def open_gateway(
    site: Site,
    options: QueueOptions,
    limits: Limits = NO_LIMITS,
    *,
    patience: float = _LOCK_PATIENCE,
) -> Iterator[tuple[Gateway, Journal]]:
    """A gateway over the site's spool, its own submit queue, and the queues of ``options``.

    ``patience`` (seconds) is how long a lock that somebody holds is tried for.
    Raises SpoolBusy where another gateway runs on this spool, SpoolError, JournalError,
    SchedulerUnavailable, or TemplateRefused.
    """
    check_templates(site)
    spool = spool_of(site)
    by_hand = QueueOptions(
        queue_root=str(spool.queue_root),
        queue_match=f"^{SUBMIT_QUEUE}$",
        gateway_id=_SPOOL,
    )
    sources = [*sources_from(by_hand), *sources_from(options)]
    spool.prepare()
    with ExitStack() as stack:
        stack.callback(SpoolLock(spool.lock, patience=patience).close)
        journal = Journal(spool.journal, time.time)
        stack.callback(journal.close)
        scheduler = open_scheduler(site, spool.root)
        stack.callback(scheduler.close)
        for source in sources:
            stack.callback(source.close)
        log.info("site %s, spool %s", site.name, spool.root)
        log.info("queues of %s", ", ".join(source.name for source in sources))
        dispatch = Dispatch(journal, spool, scheduler, site, clock=time.time, new_id=experiment_id)
        yield (
            Gateway(
                journal,
                Intake(sources, journal, site, clock=time.time, new_id=experiment_id),
                dispatch,
                Track(journal, spool, scheduler, site, clock=time.time),
                max_jobs=site.limits.max_jobs,
                clock=time.time,
                limits=limits,
            ),
            journal,
        )
