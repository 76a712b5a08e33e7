"""The metadata of one attempt: what the payload printed as such, and what we know of the run.

Two documents, as request/documents.py has them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from hpcrunner.job.claim import restart_count
from hpcrunner.job.events import Events
from hpcrunner.job.packages import Package
from hpcrunner.job.scraper import PERIOD, Scraper
from hpcrunner.request.documents import (
    PREFIX,
    PROTECTED,
    Document,
    as_text,
    ended,
    facts,
    request_document,
    request_name,
    scrape_name,
    timestamp,
)
from hpcrunner.request.plan import PlannedExperiment
from hpcrunner.request.reasons import Reason
from hpcrunner.request.redact import redact_text, redact_texts
from hpcrunner.request.scheduler_words import words_of

LARGEST_EVENT = 32 << 10  # bytes of JSON in one event
_SHARE = 0.02  # of the time so far: how much rarer events become in long runs
_FOLDING = 2.0  # seconds for what waits to be folded at the end


class Metadata:
    """The documents of an attempt while it goes on; events tell the gateway of changes.

    ``logs`` is the site's ``schema_logs``: whether ordinary output is part of the log.
    ``packages`` is what the payload's environment has installed; events leave it out.
    """

    def __init__(
        self,
        experiment: PlannedExperiment,
        accession: str,
        environ: Mapping[str, str],
        events: Events,
        *,
        logs: bool,
    ) -> None:
        self.accession = accession
        self._experiment = experiment
        self._events = events
        self._began = time.monotonic()
        self._due = self._began
        self._noted = ""
        self.packages: list[Package] = []
        self.scraper = Scraper(logs=logs, changed=self._note_if_due)
        self.scraper.say("Init")
        self.scraper.tell(_facts(experiment, accession, environ))
        self._status("starting")
        self._time("load_time")

    def started(self) -> None:
        """The payload has been started."""
        self.scraper.say("Start")
        self._time("start_time")
        self._status("running")
        self.scraper.start()

    def stopped(self) -> None:
        """The payload has ended, its output too."""
        self.scraper.finish(_FOLDING)
        self._time("stop_time")
        self.scraper.say("Stop")
        scraper = self.scraper
        if scraper.refused:
            text = f"{scraper.refused} metadata directive(s) were not used, the first because: "
            why = redact_text(scraper.first_refusal)
            self._events.tell("metadata_refused", text + why, count=scraper.refused)
        if scraper.overrun:
            text = f"{scraper.overrun} metadata directive(s) came too fast and were left out"
            self._events.tell("metadata_overrun", text, count=scraper.overrun)

    def say(self, text: str) -> None:
        """An entry in the log."""
        self.scraper.say(text)

    def ended(self, reason: Reason, text: str) -> None:
        """How the attempt ends; a later word replaces an earlier one."""
        self.scraper.tell(ended(reason, text))
        if reason is not Reason.COMPLETED:
            self.scraper.say(PREFIX + text)
        self._note()

    def files(self) -> dict[str, bytes]:
        """The documents as they are now, by file name."""
        document = self.scraper.document()
        document[PROTECTED]["log"] = self.scraper.log()
        if self.packages:
            document[PROTECTED]["pipdeptree"] = self.packages
        return {
            scrape_name(self.accession): as_text(document).encode() + b"\n",
            request_name(self.accession): request_document(self._experiment),
        }

    def _status(self, status: str) -> None:
        self.scraper.tell({"status": status})

    def _time(self, name: str) -> None:
        self.scraper.tell({name: timestamp(time.time_ns())})

    def _note_if_due(self) -> None:
        if time.monotonic() >= self._due:
            self._note()

    def _note(self) -> None:
        """An event with the document, if it has changed."""
        now = time.monotonic()
        self._due = now + max(PERIOD, _SHARE * (now - self._began))
        document = redact_texts(self.scraper.document())
        text = as_text(document)
        if len(text) > LARGEST_EVENT:
            text = as_text({PROTECTED: {**_short(document[PROTECTED]), "left_out": len(text)}})
        if text != self._noted:
            self._noted = text
            self._events.note("metadata", json=text)


def _short(ours: Document) -> Document:
    """Of a document that is too large for an event: how it stands, which always fits."""
    names = ("status", "host", "accession", "attempt", "start_time", "stop_time")
    return {name: ours[name] for name in names if name in ours}


def _facts(experiment: PlannedExperiment, accession: str, environ: Mapping[str, str]) -> Document:
    known = facts(experiment, accession, os.uname().nodename, restarts=restart_count(environ))
    words = words_of(environ)
    scheduler = words.said(environ)
    return {**known, words.name: scheduler} if scheduler else known
