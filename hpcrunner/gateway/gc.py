"""Retention by hand: look what would go, do it, or have the gateway do it that runs here."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from hpcrunner.gateway.assemble import hold_spool, spool_of
from hpcrunner.gateway.by_hand import existing_spool, look
from hpcrunner.gateway.collector import ask
from hpcrunner.gateway.lock import Contender, SpoolBusy, wait_for_lock
from hpcrunner.gateway.reader import Reader
from hpcrunner.gateway.retention import ages_of
from hpcrunner.gateway.spool import SpoolError
from hpcrunner.gateway.sweep import Sweep, Tally
from hpcrunner.sites.site import Site

log = logging.getLogger(__name__)

# A journal reuses what is free in it; only much is worth writing the whole file anew.
_MUCH = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Report:
    """What a sweep found. ``busy``: who has the spool and does it instead, then without a tally.

    ``journal_smaller`` is in bytes.
    """

    tally: Tally
    busy: str = ""
    journal_smaller: int = 0


def survey(site: Site, older_than: float | None) -> Report:
    """What would go now; changes nothing. Raises SpoolError and JournalError."""
    with look(site) as journal:
        return Report(_swept(journal, site, older_than, dry=True))


def collect(site: Site, older_than: float | None) -> Report:
    """Remove what may go, or ask the gateway that holds the spool to do it.

    Raises SpoolError and JournalError.
    """
    with look(site):
        spool = existing_spool(site)
    contender = Contender(spool.lock)
    try:
        lock = wait_for_lock(contender, time.sleep)
    except SpoolBusy as error:
        ask(spool, older_than)
        return Report(Tally(), busy=error.what)
    if lock is None:
        raise AssertionError("nobody said to stop waiting")
    with hold_spool(spool, lock) as hold:
        tally = _swept(hold.journal, site, older_than, dry=False)
        free, size = hold.journal.aging.free()
        if free < _MUCH or free * 2 < size:
            return Report(tally)
        hold.journal.aging.compact()
        return Report(tally, journal_smaller=size - hold.journal.aging.free()[1])


def _swept(journal: Reader, site: Site, older_than: float | None, *, dry: bool) -> Tally:
    spool = spool_of(site)
    ages = ages_of(site.retention, site.repeat_window, older_than)
    sweep = Sweep(journal, spool, ages, time.time, dry=dry)
    try:
        for _ in sweep.run():
            pass
    except OSError as error:
        raise SpoolError(
            f"cannot be looked through ({error.strerror})",
            where=str(error.filename or spool.root),
            remedy="check the spool's file system and permissions; it is safe to run this again",
        ) from error
    return sweep.tally
