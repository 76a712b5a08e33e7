"""Reports beside the gateway's loop: a thread of their own, and what the loop does for them.

Sealing, reading logs and waiting for brokers would each hold the loop up, a broker that hangs for
half a minute; so all of that is the thread's. It reads the journal over a connection of its own
and writes only its positions. That an experiment's reports are over is the journal's to know:
the thread leaves word here, and the gateway's next step writes it down.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.journal import Journal
from hpcrunner.notices import Notices

if TYPE_CHECKING:  # cryptography is loaded where there is something to seal
    from hpcrunner.gateway.reports.teller import Teller

log = logging.getLogger(__name__)

_SHORTEST, _LONGEST = 0.25, 4.0  # seconds between two rounds
_TROUBLED = 15.0
_FAREWELL = 5.0


class Reporter:
    """Starts with the first step, so that of two that are put together only one ever works.

    ``open_teller`` is called on the thread.
    """

    def __init__(self, journal: Journal, open_teller: Callable[[], Teller]) -> None:
        self._journal = journal
        self._open_teller = open_teller
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._over: set[str] = set()
        self._notices = Notices(log)

    def step(self) -> None:
        """The gateway's part: write down which experiments are told to the end.

        Raises JournalError.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="reports", daemon=True)
            self._thread.start()
        with self._lock:
            over = list(self._over)
        if over:
            self._journal.reported(over)
            with self._lock:
                self._over.difference_update(over)

    def finish(self, pause: Callable[[float], None], go_on: Callable[[], bool]) -> None:
        """Go on until all is told, or ``go_on`` says no. Raises JournalError."""
        self.step()
        while self._journal.reports_due() and go_on():
            pause(_SHORTEST)
            self.step()

    def close(self) -> None:
        """End the thread; what is not told yet is left to the next gateway on this spool."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_FAREWELL)

    def _run(self) -> None:
        teller: Teller | None = None
        pause = _SHORTEST
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                teller = teller or self._open_teller()
                done = teller.round(lambda: not self._stop.is_set())
            except Exception as error:
                self._troubled(teller, error)
                teller, pause = None, _TROUBLED
            else:
                self._notices.over("trouble", "reports go on")
                with self._lock:
                    self._over.update(done.over)
                if done.more:
                    # Half of a core at most: login nodes do not like more.
                    pause = min(_LONGEST, time.monotonic() - began)
                else:
                    pause = _SHORTEST if done.published else min(_LONGEST, pause * 1.5)
            self._stop.wait(pause)
        if teller is not None:
            teller.close()

    def _troubled(self, teller: Teller | None, error: Exception) -> None:
        """Say it once, and begin anew: from the positions that were kept."""
        if isinstance(error, HpcrunnerError):
            self._notices.warn("trouble", f"reports: {error.line()}; tried again")
        elif isinstance(error, OSError | sqlite3.Error):
            self._notices.warn("trouble", f"reports: {error}; tried again")
        else:
            # A thread that dies would leave clients waiting for reports that never come.
            log.exception("reports: a fault in hpcrunner")
        if teller is not None:
            try:
                teller.close()
            except (OSError, sqlite3.Error, HpcrunnerError) as closing:
                log.debug("reports: while closing: %s", closing)
