"""The metadata store: one document for each experiment that has ended, credentials masked.

Documents are written by a thread that nobody waits for, in the order in which experiments ended.
How far they have come stands in the spool, so that a store that is away, or a gateway that dies,
loses none: at least once each is written, and what is written twice is the same. Of a key that was
run several times the document tells the latest ended run.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.experiment import EndedAttempt, Experiment
from hpcrunner.gateway.reader import Reader
from hpcrunner.gateway.spool import Spool
from hpcrunner.notices import Notices
from hpcrunner.request.decode import decode_message
from hpcrunner.request.errors import RequestError
from hpcrunner.request.location import Location, TlsFiles
from hpcrunner.request.naming import experiment_name
from hpcrunner.request.redact import redact_document, redact_text
from hpcrunner.storage.contract import Store
from hpcrunner.sync import write_synced

log = logging.getLogger(__name__)

MOST_AT_ONCE = 50
FIRST_PAUSE, LONGEST_PAUSE = 15.0, 900.0
HISTORY = 100  # steps of an experiment that its document tells
_TAIL = 256 << 10  # of the event file: the last metadata stands at its end
_ADDRESS = re.compile(r"(s3|gs)://([^/]+)/?(.*)")


@dataclass(frozen=True, slots=True)
class _Document:
    location: Location
    text: bytes = field(repr=False)


class MetadataStore:
    """Steps of the gateway's round; see the module.

    ``address`` is the site's: a folder, ``s3://bucket/prefix`` or ``gs://bucket/prefix``.
    """

    def __init__(
        self,
        journal: Reader,
        spool: Spool,
        address: str,
        *,
        tls: TlsFiles | None = None,
        store: Callable[[Location], Store] | None = None,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._spool = spool
        self._address = address
        self._tls = tls
        self._store = store or _private_store
        self._steady = steady
        self._mark = spool.root / "metadata-store"
        self._after = _read_mark(self._mark, address)
        self._writing: _Writing | None = None
        self._pause, self._not_before = FIRST_PAUSE, 0.0
        self._notices = Notices(log)

    def step(self) -> None:
        """Take up what was written, and hand over what has ended since. Raises JournalError."""
        if self._writing is not None:
            if not self._writing.done.is_set():
                return
            self._settle(self._writing)
            self._writing = None
        if self._steady() < self._not_before:
            return
        last = self._journal.last_step()
        if last < self._after:
            self._after = 0  # steps are numbered anew where the latest have aged out
        if last == self._after:
            return
        ended = self._journal.ended_after(self._after, MOST_AT_ONCE)
        if len(ended) == MOST_AT_ONCE:
            last = ended[-1][0]
        documents = [self._document(id_) for id_ in dict.fromkeys(id_ for _, id_ in ended)]
        self._writing = _Writing([d for d in documents if d is not None], last, self._store)
        self._writing.start()

    def finish(self, pause: Callable[[float], object], go_on: Callable[[], bool]) -> None:
        """Steps until all is written, the store fails, or ``go_on`` says no."""
        self.step()
        while self._writing is not None and go_on():
            pause(0.1)
            self.step()

    def _settle(self, writing: _Writing) -> None:
        if writing.trouble:
            self._notices.warn("store", f"metadata store: {writing.trouble}; tried again")
            self._not_before = self._steady() + self._pause
            self._pause = min(LONGEST_PAUSE, 2 * self._pause)
            return
        self._notices.over("store", "the metadata store can be used again")
        self._pause = FIRST_PAUSE
        self._after = writing.last
        try:
            _write_mark(self._mark, self._address, self._after)
        except OSError as error:  # some are written again after the next start
            self._notices.warn("mark", f"{self._mark}: {error.strerror}")

    def _document(self, id_: str) -> _Document | None:
        experiment = self._journal.of_id(id_)
        if experiment is None or not experiment.state.final:
            return None  # aged out, or one whose attempt was followed by another
        message = self._journal.message(id_)
        if not message or self._journal.ended_later(experiment):
            return None  # without its message, a document would tell less than the one there is
        name = experiment_name(experiment.key or experiment.id)
        document = {
            **request_of(message),
            "hpcrunner": _account_of(self._journal, experiment),
            "metadata": self._metadata_of(experiment),
        }
        text = json.dumps(document, sort_keys=True, indent=1).encode() + b"\n"
        return _Document(location_of(self._address, f"{name}.json", self._tls), text)

    def _metadata_of(self, experiment: Experiment) -> object:
        if not experiment.batch:
            return None
        try:
            with self._spool.events(experiment.batch, experiment.task).open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - _TAIL))
                return last_metadata(file.read())
        except OSError:
            return None


class _Writing:
    """Some documents on their way. ``trouble`` says why they were not all written."""

    def __init__(
        self, documents: Sequence[_Document], last: int, store: Callable[[Location], Store]
    ) -> None:
        self.last = last
        self.trouble = ""
        self.done = threading.Event()
        self._documents = documents
        self._store = store

    def start(self) -> None:
        if not self._documents:
            self.done.set()
            return
        threading.Thread(target=self._write, name="metadata-store", daemon=True).start()

    def _write(self) -> None:
        try:
            for d in self._documents:
                self._store(d.location).put(d.location, io.BytesIO(d.text), len(d.text))
        except HpcrunnerError as error:
            self.trouble = error.line()
        except Exception as error:  # whatever a store's client throws
            self.trouble = f"{type(error).__name__}: {error}"
        finally:
            self.done.set()


def location_of(address: str, name: str, tls: TlsFiles | None = None) -> Location:
    """Where a document is written; credentials are those of this host."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        return Location("file", f"{address.rstrip('/')}/{name}")
    prefix = match[3].strip("/")
    key = f"{prefix}/{name}" if prefix else name
    return Location("s3" if match[1] == "s3" else "gs", key, match[2], tls=tls)


def request_of(message: bytes) -> dict[str, Any]:
    """``experiment`` and ``config`` of a message in clear, masked; null where there is none."""
    try:
        request: Mapping[str, Any] = decode_message(message)
    except RequestError:
        request = {}
    return {name: redact_document(request.get(name)) for name in ("experiment", "config")}


def last_metadata(events: bytes) -> object:
    """The document of the last ``metadata`` event; None without any."""
    for line in reversed(events.splitlines()):
        if b'"metadata"' in line:
            with suppress(ValueError, TypeError, LookupError, RecursionError):
                event = json.loads(line)
                if event["event"] == "metadata":
                    return json.loads(event["json"])
    return None


def _account_of(journal: Reader, e: Experiment) -> dict[str, Any]:
    """What the gateway knows of an experiment. Times are epoch seconds."""
    names = (
        "id key queue attempt batch task job_id exit_code node owner project received_at"
        " submitted_at started_at ended_at retried_as"
    )
    account = {name: getattr(e, name) for name in names.split()}
    history = journal.history(e.id)[-HISTORY:]
    return {
        **account,
        "state": e.state.value,
        "reason": e.reason.value if e.reason else None,
        "text": redact_text(e.text),
        "attempts": [_attempt(a) for a in journal.attempts(e.id)],
        "history": [{"at": at, "state": s.value, "text": redact_text(t)} for at, s, t in history],
    }


def _attempt(a: EndedAttempt) -> dict[str, Any]:
    words = {"state": a.state.value, "reason": a.reason.value, "text": redact_text(a.text)}
    return {**asdict(a), **words}


def _private_store(location: Location) -> Store:
    if location.scheme == "file":
        from hpcrunner.storage.file import FileStore

        return FileStore(private=True)  # masking knows names, not values
    from hpcrunner.storage.stores import store_for

    return store_for(location)


def _read_mark(path: Path, address: str) -> int:
    """How far the store at that address has come; 0 for another one."""
    try:
        mark = json.loads(path.read_text())
        return int(mark["after"]) if mark["store"] == address else 0
    except (OSError, ValueError, TypeError, LookupError):
        return 0


def _write_mark(path: Path, address: str, after: int) -> None:
    unfinished = path.with_name(f".{path.name}")
    unfinished.unlink(missing_ok=True)
    write_synced(unfinished, json.dumps({"store": address, "after": after}))
    unfinished.rename(path)
