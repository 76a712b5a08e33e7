"""A running gateway's sweeps: now and then, a slice a round, and at once where somebody asks."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hpcrunner.gateway.journal import Journal
from hpcrunner.gateway.retention import ages_of
from hpcrunner.gateway.spool import PRIVATE_FILE, Spool, SpoolError
from hpcrunner.gateway.sweep import Sweep
from hpcrunner.notices import Notices
from hpcrunner.sites.site import Site
from hpcrunner.sync import sync_folder, write_synced

log = logging.getLogger(__name__)

EVERY = 3600.0  # seconds between two sweeps
_FIRST = 60.0
_SLICE = 0.2  # seconds of a round that a sweep may take
_ASKED = "collect"


@dataclass(frozen=True, slots=True)
class Wish:
    """Somebody wants a sweep now; ``older_than`` (seconds): see ages_of."""

    token: str
    older_than: float | None


class Collector:
    """Sweeps of a running gateway: now and then, a slice a round, and at once where asked.

    ``clock`` is epoch seconds, ``steady`` a steady clock.
    """

    def __init__(
        self,
        journal: Journal,
        spool: Spool,
        site: Site,
        *,
        clock: Callable[[], float],
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._spool = spool
        self._site = site
        self._clock = clock
        self._steady = steady
        self._due = steady() + _FIRST
        self._sweep: Sweep | None = None
        self._rest: Iterator[None] = iter(())
        self._wish: Wish | None = None
        self._notices = Notices(log)

    def step(self) -> None:
        """Go on for a moment, if anything is due. Raises JournalError."""
        if self._sweep is None and not self._begin():
            return
        until = self._steady() + _SLICE
        try:
            for _ in self._rest:
                if self._steady() >= until:
                    return
        except BaseException:
            self._sweep = None
            self._due = self._steady() + _FIRST
            raise
        self._end()

    def _begin(self) -> bool:
        self._wish = asked(self._spool)
        if self._wish is None and self._steady() < self._due:
            return False
        older_than = self._wish.older_than if self._wish else None
        ages = ages_of(self._site.retention, self._site.repeat_window, older_than)
        self._sweep = Sweep(self._journal, self._spool, ages, self._clock, dry=False)
        self._rest = self._sweep.run()
        return True

    def _end(self) -> None:
        if self._sweep is None:
            return
        tally, self._sweep = self._sweep.tally, None
        self._due = self._steady() + EVERY
        if self._wish is not None and asked(self._spool) == self._wish:
            (self._spool.wish_root / _ASKED).unlink(missing_ok=True)
        if tally.words():
            log.info("retention: removed %s", tally.words())
        for path, why in tally.skipped.items():
            self._notices.warn(path, f"retention: {path}: {why}; left where it is")


def ask(spool: Spool, older_than: float | None) -> None:
    """Leave a wish for a sweep, in place of an earlier one. Raises SpoolError."""
    wish = {"token": secrets.token_hex(4), "older_than": older_than}
    unfinished = spool.wish_root / f".{_ASKED}-{wish['token']}"
    try:
        write_synced(unfinished, json.dumps(wish), PRIVATE_FILE)
        unfinished.rename(spool.wish_root / _ASKED)
        sync_folder(spool.wish_root)
    except OSError as error:
        raise SpoolError(
            f"cannot leave a wish ({error.strerror})",
            where=str(spool.wish_root),
            remedy="check room and permissions of the spool",
        ) from error


def asked(spool: Spool) -> Wish | None:
    """The wish that is there; one that cannot be understood asks for a sweep by the policy."""
    try:
        with (spool.wish_root / _ASKED).open("rb") as file:
            raw = json.loads(file.read(1000))
        age = raw["older_than"]
        return Wish(str(raw["token"]), None if age is None else max(0.0, float(age)))
    except OSError:
        return None
    except (ValueError, TypeError, KeyError):
        return Wish("", None)
