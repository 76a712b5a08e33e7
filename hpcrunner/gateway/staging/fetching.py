"""Artifacts brought to where nodes without a network find them, before anything is submitted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
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
from hpcrunner.gateway.staging.workers import Workers
from hpcrunner.request.plan import PlannedArtifact, PlannedExperiment
from hpcrunner.request.reasons import Reason
from hpcrunner.storage.contract import ArtifactNotFound
from hpcrunner.sync import sync_folder

log = logging.getLogger(__name__)

THREADS = 6
NO_ROOM_PAUSE = 30.0
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


class Fetching:
    """The preparation of artifacts, of the client's record and of its wish to stop."""

    def __init__(self, layout: Layout, objects: Objects, *, threads: int = THREADS) -> None:
        self._layout = layout
        self._objects = objects
        self._workers = Workers("staging-fetch", threads)
        self._fetches: dict[Attempt, _Fetch] = {}
        self._lock = threading.Lock()
        self._parked: dict[str, list[Callable[[], None]]] = {}  # by object: who waits for it

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
        self._workers.give(partial(self._guarded, fetch, partial(self._fetch, artifact=artifact)))

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
                others.append(partial(self._guarded, fetch, task))
                return
            self._parked[identity.name] = []
        try:
            here = self._objects.found(identity)
            if here is None:
                self._download(fetch, artifact, identity)
            else:
                self._place(fetch, artifact, here)
        finally:
            with self._lock:
                others = self._parked.pop(identity.name)
            for other in others:
                self._workers.give(other)

    def _download(
        self, fetch: _Fetch, artifact: PlannedArtifact, identity: Identity | None
    ) -> None:
        budget = fetch.planned.disk_budget
        limit = 2 * budget + _SLACK if budget else None
        try:
            sha256 = self._objects.fetch(
                artifact.location,
                identity,
                limit,
                lambda: fetch.stopped.is_set() or self._workers.closed.is_set(),
            )
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
