"""The metadata of one attempt: what the payload printed as such, and what we know of the run.

Two documents, ``scrape-host-<accession>.json`` and ``request-host-<accession>.json``; the second
is the request as it came, credentials masked. docs/metadata.md has their members.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from hpcrunner.job.claim import restart_count
from hpcrunner.job.events import Events
from hpcrunner.job.jsoneditor import PROTECTED, Document, as_text
from hpcrunner.job.outputlog import timestamp
from hpcrunner.job.scraper import PERIOD, Scraper
from hpcrunner.request.plan import PlannedExperiment
from hpcrunner.request.reasons import Reason
from hpcrunner.request.redact import redact_document, redact_text, redact_texts
from hpcrunner.request.scheduler_words import words_of

METADATA = "_metadata"
SCRAPE, REQUEST = "scrape-host-", "request-host-"
COMPLETED = "completed"
LARGEST_EVENT = 32 << 10  # bytes of JSON in one event
_SHARE = 0.02  # of the time so far: how much rarer events become in long runs
_LABEL = 200  # characters of a label
_FOLDING = 2.0  # seconds for what waits to be folded at the end


class Metadata:
    """The documents of an attempt while it goes on; events tell the gateway of changes.

    ``logs`` is the site's ``schema_logs``: whether ordinary output is part of the log.
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
        completed = reason is Reason.COMPLETED
        self._status(COMPLETED if completed else reason.value.lower())
        if not completed:
            self.scraper.tell({"error": redact_text(text)})
            self.scraper.say(f"hpcrunner: {text}")
        self._note()

    def files(self) -> dict[str, bytes]:
        """The documents as they are now, by file name."""
        document = self.scraper.document()
        document[PROTECTED]["log"] = self.scraper.log()
        return {
            f"{SCRAPE}{self.accession}.json": as_text(document).encode() + b"\n",
            f"{REQUEST}{self.accession}.json": self._request(),
        }

    def _request(self) -> bytes:
        experiment = self._experiment
        config = {"env": dict(experiment.environment), "pip": list(experiment.pip)}
        request = {"experiment": _read(experiment.document), "config": config}
        return as_text(redact_document(request)).encode() + b"\n"

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
    document = _read(experiment.document)
    labels = ("project", "project_version", "project_experiment", "author")
    document.setdefault("author", document.get("owner"))
    about = {label: _word(document.get(label)) for label in labels}
    words = words_of(environ)
    scheduler = words.said(environ)
    facts: Document = {
        "accession": accession,
        "host": os.uname().nodename,
        "attempt": experiment.attempt,
        "restarts": restart_count(environ),
        "experiment": {"key": experiment.key, **{n: word for n, word in about.items() if word}},
        "artifacts": {a.tag: str(a.location) for a in experiment.artifacts},
    }
    return {**facts, words.name: scheduler} if scheduler else facts


def _word(value: object) -> str:
    """A label that clients may send as they like."""
    return redact_text(str(value))[:_LABEL] if isinstance(value, (str, int, float)) else ""


def _read(document: str) -> dict[str, Any]:
    try:
        read = json.loads(document)
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}
