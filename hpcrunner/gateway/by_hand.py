"""What the command line does with the spool: look, follow, and help out where no gateway runs.

Work submitted by hand goes the way of all work: through the spool's own queue, the journal,
and the scheduler. Where a gateway runs on the spool, it does that; where none does, the command
line takes the lock for as long as it is needed and does the rounds itself.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace

from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.assemble import open_gateway, spool_of
from hpcrunner.gateway.database import JournalError
from hpcrunner.gateway.experiment import Experiment, State
from hpcrunner.gateway.lock import Contender, SpoolBusy
from hpcrunner.gateway.options import GatewayOptions
from hpcrunner.gateway.reader import Reader
from hpcrunner.gateway.spool import Spool, SpoolError, Verb
from hpcrunner.gateway.view import log_path
from hpcrunner.keys.options import NO_KEY_OPTIONS, KeyOptions
from hpcrunner.queues.sources import QueueOptions
from hpcrunner.sites.site import Site

log = logging.getLogger(__name__)

BY_HAND = "by-hand"
OPTIONS = GatewayOptions(queues=QueueOptions(gateway_id=BY_HAND))
_BLOCK = 1 << 16
_TICK = 0.5
_LOOK_AGAIN = 5.0  # at whether the gateway that should do the work still holds the spool
_WHICH = "is this the right --site or --spool?"


@contextmanager
def look(site: Site) -> Iterator[Reader]:
    """The site's journal, for reading. Raises SpoolError where there is none yet."""
    spool = spool_of(site)
    if not spool.journal.exists():
        raise SpoolError(
            "nothing has been submitted here yet",
            where=f"spool {spool.root}",
            remedy=_WHICH,
        )
    journal = Reader(spool.journal)
    try:
        yield journal
    finally:
        journal.close()


def existing_spool(site: Site) -> Spool:
    """The site's spool, looked over. Raises SpoolError where there is none yet."""
    spool = spool_of(site)
    if not spool.root.is_dir():
        raise SpoolError("there is no spool here", where=f"spool {spool.root}", remedy=_WHICH)
    spool.prepare()
    return spool


def refresh(site: Site, keys: KeyOptions = NO_KEY_OPTIONS) -> None:
    """Where no gateway runs and something is live, do one round, so that states are of now.

    ``keys`` open sealed messages that are retried.
    """
    with look(site) as journal:
        live = journal.count_live()
    if live or any(spool_of(site).wishes(verb) for verb in Verb):
        try:
            with open_gateway(site, replace(OPTIONS, keys=keys), patience=0) as (gateway, _):
                gateway.step()
        except SpoolBusy:
            return  # a gateway runs: what it wrote is of now
        except HpcrunnerError as error:
            if isinstance(error, JournalError) and not error.passing:
                raise
            log.warning("states are as of the last look: %s", error.line())
        except OSError as error:
            log.warning("states are as of the last look: %s", error)


def carry(
    site: Site, body: bytes, since: float, done: Callable[[Experiment], bool]
) -> Iterator[Experiment]:
    """Yield a hand-submitted experiment round by round, until ``done`` says enough.

    ``body`` is the message published at ``since`` (epoch). Does the gateway's rounds itself
    where none runs, also where one did and has died since.
    """
    contender = Contender(spool_of(site).lock)
    while True:
        try:
            with open_gateway(site, OPTIONS, contender=contender) as (
                gateway,
                journal,
            ):
                rounds = _rounds(gateway.step, gateway.wait)
                yield from _watch(journal, body, since, done, rounds, float("inf"))
                return
        except SpoolBusy:
            until = time.monotonic() + _LOOK_AGAIN
        while not spool_of(site).journal.exists() and time.monotonic() < until:
            time.sleep(_TICK)
        if not spool_of(site).journal.exists():
            continue
        with look(site) as journal:
            enough = yield from _watch(journal, body, since, done, lambda: time.sleep(_TICK), until)
        if enough:
            return


def _rounds(step: Callable[[], None], wait: Callable[[], float]) -> Callable[[], None]:
    def once() -> None:
        step()
        time.sleep(min(_TICK, wait()))

    return once


def _watch(
    journal: Reader,
    body: bytes,
    since: float,
    done: Callable[[Experiment], bool],
    once: Callable[[], None],
    until: float,
) -> Generator[Experiment, None, bool]:
    """Yield it round by round ``until`` then (steady clock); returns whether that was enough."""
    digest = hashlib.sha256(body).hexdigest()
    while True:
        found = journal.by_digest(digest, since)
        if found is not None:
            yield found
            if done(found):
                return True
        if time.monotonic() >= until:
            return False
        once()


def submitted(experiment: Experiment) -> bool:
    """True once the scheduler has it, or it never will."""
    return experiment.state not in (State.ACCEPTED, State.SUBMITTING)


def ended(experiment: Experiment) -> bool:
    """True once its state is final."""
    return experiment.state.final


def follow(spool: Spool, journal: Reader, experiment: Experiment, *, wait: bool) -> Iterator[bytes]:
    """An experiment's output in pieces; with ``wait``, as it grows until the experiment ends."""
    offset = 0
    while True:
        (now,) = [e for e in journal.find(experiment.id) if e.id == experiment.id]
        for piece in output_from(spool, now, offset):
            offset += len(piece)
            yield piece
        if now.state.final or not wait:
            return
        time.sleep(_TICK)


def output_from(spool: Spool, experiment: Experiment, offset: int) -> Iterator[bytes]:
    """The output there is by now, from that byte on, in pieces."""
    path = log_path(spool, experiment)
    if path is None or not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        while piece := file.read(_BLOCK):
            yield piece
