"""Artifacts brought to where nodes without a network find them, before anything is submitted."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from hpcrunner.crashpoint import crashpoint
from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.experiment import Experiment
from hpcrunner.gateway.preparation import (
    READY,
    Attempt,
    Failed,
    Standing,
    Waiting,
    failure_of,
)
from hpcrunner.gateway.staging import mirrors
from hpcrunner.gateway.staging.layout import NOT_FETCHED, STATUS, Layout, carried
from hpcrunner.gateway.staging.marks import Mark, version_of, write_mark
from hpcrunner.gateway.staging.objects import Identity, NoRoom, Objects, Stopped
from hpcrunner.gateway.staging.sending import server_of
from hpcrunner.gateway.staging.workers import Workers
from hpcrunner.request.location import Location
from hpcrunner.request.plan import PlannedArtifact, PlannedExperiment
from hpcrunner.request.reasons import Reason
from hpcrunner.request.units import format_duration
from hpcrunner.storage.contract import ArtifactNotFound
from hpcrunner.sync import sync_folder

log = logging.getLogger(__name__)

THREADS = 8
OF_ONE_STORE = 6
NO_ROOM_PAUSE = 30.0
# A store that has sent less than a chunk (objects.py) for so long is given up, and with it the
# thread that waits: one that sends a byte a minute would keep it for years.
QUIET = 600.0
WAITING = Waiting("waits to be fetched")
_SLACK = 16 << 20  # a tar is larger than what it holds


@dataclass
class _Fetch:
    """One attempt whose artifacts are being fetched. Threads write what the loop reads."""

    attempt: Attempt
    planned: PlannedExperiment = field(repr=False)
    left: set[str] = field(default_factory=set)
    total: int = 0
    standing: Standing = WAITING
    stopped: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class _Asking:
    """A thread that waits for a store, since when nothing has come."""

    fetch: _Fetch
    where: str
    name: str  # of the object, "" for none
    moved_at: float


class Fetching:
    """The preparation of artifacts, of the client's record and of its wish to stop."""

    def __init__(
        self,
        layout: Layout,
        objects: Objects,
        *,
        threads: int = THREADS,
        of_one_store: int = OF_ONE_STORE,
    ) -> None:
        self._layout = layout
        self._objects = objects
        self._workers = Workers("staging-fetch", threads, of_one_store)
        self._asking: dict[int, _Asking] = {}  # by thread
        self._fetches: dict[Attempt, _Fetch] = {}
        self._lock = threading.Lock()
        # By object: who waits for it, and that one's store.
        self._parked: dict[str, list[tuple[Callable[[], None], str]]] = {}

    def want(self, experiment: Experiment, planned: PlannedExperiment) -> None:
        """See Preparation."""
        attempt = (experiment.id, experiment.attempt)
        if attempt not in self._fetches:
            fetch = self._fetches[attempt] = _Fetch(attempt, planned)
            self._workers.give(partial(self._guarded, fetch, self._begin))

    def standing(self, experiment: Experiment) -> Standing | None:
        """See Preparation."""
        fetch = self._fetches.get((experiment.id, experiment.attempt))
        return fetch.standing if fetch else None

    def apply(self, experiment: Experiment, planned: PlannedExperiment) -> PlannedExperiment:
        """See Preparation."""
        return self._layout.staged((experiment.id, experiment.attempt), planned)

    def step(self, wanted: Collection[Attempt]) -> None:
        """See Preparation. What is there of them is removed by Uploads, which knows who is over."""
        for attempt in [a for a in self._fetches if a not in wanted]:
            self._fetches.pop(attempt).stopped.set()
        with self._lock:
            now = time.monotonic()
            for thread, asking in list(self._asking.items()):
                if now - asking.moved_at > QUIET:
                    del self._asking[thread]
                    self._workers.write_off(thread)
                    self._give_up(asking)

    def close(self) -> None:
        """See Preparation."""
        self._workers.close()
        self.step(())

    def _begin(self, fetch: _Fetch) -> None:
        self._layout.marker(fetch.attempt).touch(mode=0o600)
        sync_folder(self._layout.attempts)
        crashpoint("staging.begun")
        wanted = [
            a
            for a in fetch.planned.artifacts
            if carried(a.location) and a.tag not in NOT_FETCHED and a.tag != STATUS
        ]
        fetch.total = len(wanted)
        fetch.left = {a.tag for a in wanted}
        if not wanted:
            self._finish(fetch)
        for artifact in wanted:
            self._give(fetch, artifact)

    def _give(self, fetch: _Fetch, artifact: PlannedArtifact) -> None:
        task = partial(self._guarded, fetch, partial(self._fetch, artifact=artifact))
        self._workers.give(task, server_of(artifact.location))

    def _give_up(self, asking: _Asking) -> None:
        """A store does not answer. The lock is held."""
        why = f"{asking.where}: next to nothing came for {format_duration(QUIET)}"
        self._fail(asking.fetch, Failed(Reason.STORE_UNREACHABLE, f"{why}; is the store up?"))
        self._unpark(asking.name)

    def _unpark(self, name: str) -> None:
        """Whoever waited for that object looks for himself. The lock is held."""
        for other, place in self._parked.pop(name, ()):
            self._workers.give(other, place)

    @contextmanager
    def _asked(self, fetch: _Fetch, location: Location, name: str = "") -> Iterator[_Asking]:
        """While this thread waits for a store. Raises Stopped where it was given up meanwhile."""
        me = threading.get_ident()
        asking = _Asking(fetch, str(location), name, time.monotonic())
        with self._lock:
            self._asking[me] = asking
        try:
            yield asking
        finally:
            with self._lock:
                given_up = self._asking.get(me) is not asking
                if not given_up:
                    del self._asking[me]
            if given_up:
                raise Stopped

    def _guarded(self, fetch: _Fetch, task: Callable[[_Fetch], None]) -> None:
        """A step of a fetch; whatever it raises is how the fetch stands."""
        if fetch.stopped.is_set():
            return
        try:
            task(fetch)
        except Stopped:
            return
        except NoRoom as error:
            self._again(fetch, task, str(error))
        except HpcrunnerError as error:
            self._fail(fetch, failure_of(error))
        except OSError as error:
            self._again(fetch, task, f"{self._layout.root}: {error.strerror or error}")
        except Exception as error:  # whatever a store's client throws
            log.exception("%s: a fault while its artifacts were fetched", fetch.attempt[0])
            what = f"{type(error).__name__}: {error}"
            self._fail(fetch, Failed(Reason.STORE_UNREACHABLE, what))

    def _fail(self, fetch: _Fetch, failure: Failed) -> None:
        with fetch.lock:
            fetch.standing = failure
        fetch.stopped.set()

    def _again(self, fetch: _Fetch, task: Callable[[_Fetch], None], why: str) -> None:
        """The gateway's own disk is at fault, which is no failure of an experiment."""
        with fetch.lock:
            if isinstance(fetch.standing, Failed):
                return  # by another of its artifacts
            fetch.standing = Waiting(f"cannot be fetched now: {why}")
        self._workers.give_later(NO_ROOM_PAUSE, partial(self._guarded, fetch, task))

    def _fetch(self, fetch: _Fetch, artifact: PlannedArtifact) -> None:
        self._say(fetch)
        try:
            with self._asked(fetch, artifact.location):
                identity = self._objects.identify(artifact.location)
        except ArtifactNotFound:
            self._missing(fetch, artifact)
            return
        self._get(fetch, artifact, identity)

    def _get(self, fetch: _Fetch, artifact: PlannedArtifact, identity: Identity | None) -> None:
        if identity is None:
            self._download(fetch, artifact, None)
            return
        with self._lock:
            others = self._parked.get(identity.name)
            if others is not None:
                task = partial(self._get, artifact=artifact, identity=identity)
                guarded = partial(self._guarded, fetch, task)
                others.append((guarded, server_of(artifact.location)))
                return
            mine = self._parked[identity.name] = []
        try:
            here = self._objects.found(identity)
            if here is None:
                self._download(fetch, artifact, identity)
            else:
                self._place(fetch, artifact, here)
        finally:
            with self._lock:
                if self._parked.get(identity.name) is mine:  # not given up meanwhile
                    self._unpark(identity.name)

    def _download(
        self, fetch: _Fetch, artifact: PlannedArtifact, identity: Identity | None
    ) -> None:
        budget = fetch.planned.disk_budget
        limit = 2 * budget + _SLACK if budget else None
        name = identity.name if identity else ""

        def stopped() -> bool:
            asking.moved_at = time.monotonic()
            return fetch.stopped.is_set() or self._workers.closed.is_set()

        try:
            with self._asked(fetch, artifact.location, name) as asking:
                sha256 = self._objects.fetch(artifact.location, identity, limit, stopped)
        except ArtifactNotFound:
            self._missing(fetch, artifact)
            return
        self._place(fetch, artifact, sha256)

    def _place(self, fetch: _Fetch, artifact: PlannedArtifact, sha256: str) -> None:
        place = self._layout.place(fetch.attempt, artifact.tag, mutable=artifact.mutable)
        self._objects.link(sha256, place)
        if artifact.mutable:
            mark = Mark(version_of(place.stat()), sha256)
            write_mark(self._layout.stored / place.name, mark)
        crashpoint("staging.placed")
        self._done(fetch, artifact)

    def _missing(self, fetch: _Fetch, artifact: PlannedArtifact) -> None:
        """A mutable artifact may be missing: the first attempt makes it."""
        if not artifact.mutable:
            raise ArtifactNotFound(
                "no such object",
                where=str(artifact.location),
                remedy="was it uploaded, and under this key?",
            )
        place = self._layout.place(fetch.attempt, artifact.tag, mutable=True)
        for path in (place, self._layout.stored / place.name):
            path.unlink(missing_ok=True)  # of a preparation before a crash
        self._done(fetch, artifact)

    def _done(self, fetch: _Fetch, artifact: PlannedArtifact) -> None:
        with fetch.lock:
            fetch.left.discard(artifact.tag)
            last = not fetch.left
        self._say(fetch)
        if last:
            self._finish(fetch)

    def _finish(self, fetch: _Fetch) -> None:
        mirrors.begin(fetch.planned, fetch.attempt, self._layout)
        for folder in self._layout.by_attempt:
            sync_folder(folder)
        crashpoint("staging.prepared")
        with fetch.lock:
            if not isinstance(fetch.standing, Failed):
                fetch.standing = READY

    def _say(self, fetch: _Fetch) -> None:
        with fetch.lock:
            if isinstance(fetch.standing, Waiting):
                done = fetch.total - len(fetch.left)
                fetch.standing = Waiting(f"fetched {done} of {fetch.total} artifacts")
