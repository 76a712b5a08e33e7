"""The gateway put together for a site: spool, lock, journal; then scheduler and sources."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

from hpcrunner.batch.script import check_templates
from hpcrunner.crashpoint import crashpoint
from hpcrunner.gateway.client_records import ClientRecords
from hpcrunner.gateway.collector import Collector
from hpcrunner.gateway.dispatch import Dispatch
from hpcrunner.gateway.fairness import SiteShares
from hpcrunner.gateway.gateway import Gateway, Hold
from hpcrunner.gateway.happenings import Tell, nobody
from hpcrunner.gateway.images import open_images
from hpcrunner.gateway.intake import Intake
from hpcrunner.gateway.journal import Journal
from hpcrunner.gateway.lastwords import LastWords
from hpcrunner.gateway.lock import Contender, SpoolLock, wait_for_lock
from hpcrunner.gateway.measured import Measured
from hpcrunner.gateway.metadata_store import MetadataStore
from hpcrunner.gateway.opening import Opener
from hpcrunner.gateway.options import GatewayOptions
from hpcrunner.gateway.preparation import Preparations
from hpcrunner.gateway.reports.reporter import Reporter
from hpcrunner.gateway.spool import SUBMIT_QUEUE, Spool
from hpcrunner.gateway.staging.open import open_staging
from hpcrunner.gateway.track import Track
from hpcrunner.gateway.wishes import Wishes
from hpcrunner.keys.keyring import keyring_from
from hpcrunner.queues.responders import RESPONDING
from hpcrunner.queues.sources import QueueOptions, sources_from
from hpcrunner.request.hosts import PUBLIC
from hpcrunner.schedulers.choose import open_scheduler
from hpcrunner.sites.node_setup import carried_rules, host_rule, store_rules
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
def hold_spool(spool: Spool, lock: SpoolLock, *, check: bool = False) -> Iterator[Hold]:
    """The spool under a lock just taken: its journal, which no earlier holder can write any more.

    With ``check`` the journal is looked over for damage first. Lets go of both in the end.
    Raises JournalError.
    """
    with ExitStack() as stack:
        stack.callback(lock.close)
        crashpoint("gateway.locked")
        journal = Journal(spool.journal, time.time)
        stack.callback(journal.close)
        if check:
            journal.check()
        journal.take_over(socket.gethostname(), os.getpid())
        crashpoint("gateway.taken_over")
        yield Hold(spool, lock, journal)


@contextmanager
def put_together(
    hold: Hold, site: Site, options: GatewayOptions, *, taken: int = 0, tell: Tell = nobody
) -> Iterator[Gateway]:
    """All parts of a gateway over a spool that is held: the sources of ``options`` and the
    spool's own submit queue, and the scheduler.

    ``taken`` counts what earlier parts took; ``tell`` hears what happens. Raises OptionInvalid,
    TemplateRefused, or SchedulerUnavailable.
    """
    check_templates(site)
    spool, journal = hold.spool, hold.journal
    with ExitStack() as stack:
        scheduler = Measured(open_scheduler(site, spool.root), tell)
        stack.callback(scheduler.close)
        keys = keyring_from(replace(options.keys, response_signatures_dir=""))
        shares = SiteShares(site)
        own = sources_from(_by_hand(spool), shares=shares)
        sources = [*own, *sources_from(options.queues, shares=shares)]
        for source in sources:
            stack.callback(source.close)
        opener = Opener(keys, options.keys, site.clear_text, own[0].name)
        reporter = _reporter(hold, options)
        if reporter is not None:
            stack.callback(reporter.close)
        client_records = ClientRecords(journal, spool, site, opener, clock=time.time)
        stack.callback(client_records.close)
        metadata_store = _metadata_store(hold, site)
        images = open_images(journal, spool, site)
        staging = open_staging(journal, spool, site, tell, images)
        if staging is not None:
            stack.callback(staging.uploads.close)
        preparations = Preparations(
            [*(staging.preparations if staging else ()), *([images] if images else ())],
            clock=time.time,
            largest_array=site.limits.largest_array,
            farewell=LastWords(
                documented=site.generate_metadata,
                reserved=staging.documents if staging else None,
                rules=carried_rules(site),
            ),
        )
        stack.callback(preparations.close)
        log.info("site %s, spool %s", site.name, spool.root)
        if site.gateway_fetches:
            said = ["the internet" if h == PUBLIC else h for h in host_rule(site).allowed]
            hosts = ", ".join(said) or "no host"
            log.info("a message may have it contact %s: see gateway_hosts", hosts)
        log.info("queues of %s", ", ".join(source.name for source in sources))
        yield Gateway(
            hold,
            Intake(
                sources,
                journal,
                site,
                clock=time.time,
                new_id=experiment_id,
                tell=tell,
                opener=opener,
                reports=RESPONDING if reporter is not None else (),
                shares=shares,
            ),
            Dispatch(
                journal,
                spool,
                scheduler,
                site,
                clock=time.time,
                new_id=experiment_id,
                tell=tell,
                capacity=options.capacity,
                preparations=preparations,
            ),
            Track(
                journal,
                spool,
                scheduler,
                site,
                clock=time.time,
                tell=tell,
                delivery=staging.uploads if staging else None,
            ),
            Wishes(
                journal,
                spool,
                scheduler,
                site,
                clock=time.time,
                new_id=experiment_id,
                tell=tell,
                opener=opener,
            ),
            # Each needs a core at least: what could not run here stays with other gateways.
            max_jobs=min(site.limits.max_jobs, options.capacity.cores or site.limits.max_jobs),
            clock=time.time,
            limits=options.limits,
            taken=taken,
            shares=shares,
            collect=Collector(journal, spool, site, clock=time.time).step,
            tell=tell,
            tellers=[
                teller
                for teller in (
                    staging.uploads if staging else None,
                    reporter,
                    client_records,
                    metadata_store,
                )
                if teller is not None
            ],
        )


@contextmanager
def open_gateway(
    site: Site,
    options: GatewayOptions,
    *,
    patience: float = _LOCK_PATIENCE,
    contender: Contender | None = None,
) -> Iterator[tuple[Gateway, Journal]]:
    """A gateway for as long as somebody does its rounds here.

    ``patience`` (seconds) is how long a lock that somebody holds is tried for; a ``contender``
    that is kept between two calls remembers what it saw of the holder.
    Raises SpoolBusy where another gateway runs on this spool or may run, SpoolError,
    JournalError, SchedulerUnavailable, OptionInvalid, or TemplateRefused.
    """
    check_templates(site)
    sources_from(options.queues)  # what is wrong with them is said before anything is made
    spool = spool_of(site)
    spool.prepare()
    lock = wait_for_lock(contender or Contender(spool.lock), time.sleep, patience=patience)
    if lock is None:
        raise AssertionError("nobody said to stop waiting")
    with hold_spool(spool, lock) as hold, put_together(hold, site, options) as gateway:
        yield gateway, hold.journal


def _reporter(hold: Hold, options: GatewayOptions) -> Reporter | None:
    """What tells the clients' response queues; None where there are no keys to seal with."""
    folder = options.keys.response_signatures_dir
    if not folder:
        return None
    from hpcrunner.gateway.reports.open import open_teller

    return Reporter(hold.journal, partial(open_teller, hold.spool, options.queues, folder))


def _metadata_store(hold: Hold, site: Site) -> MetadataStore | None:
    if site.metadata_store is None:
        return None
    return MetadataStore(hold.journal, hold.spool, site.metadata_store, tls=store_rules(site).tls)


def _by_hand(spool: Spool) -> QueueOptions:
    return QueueOptions(
        queue_root=str(spool.queue_root), queue_match=f"^{SUBMIT_QUEUE}$", gateway_id=_SPOOL
    )
