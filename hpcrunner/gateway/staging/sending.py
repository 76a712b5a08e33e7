"""What a job left, brought to the stores: one attempt's files at a time, by one thread."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from hpcrunner.crashpoint import crashpoint
from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.preparation import Attempt
from hpcrunner.gateway.staging import mirrors
from hpcrunner.gateway.staging.layout import (
    METADATA,
    RESULTS,
    STATUS,
    Layout,
    carried,
    parsed,
    stem,
)
from hpcrunner.gateway.staging.marks import Mark, Version, read_mark, version_of, write_mark
from hpcrunner.request.beside import beside
from hpcrunner.request.location import Location
from hpcrunner.request.plan import PlannedArtifact, PlannedExperiment
from hpcrunner.request.record import Record, SavedArtifact
from hpcrunner.storage.contract import StoreUnreachable
from hpcrunner.storage.stores import store_for
from hpcrunner.sync import sync_folder

_CHUNK = 1 << 20
_STRAY = 3600.0  # seconds
_MOST_DOCUMENTS = 1002  # as many as the job side writes


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be sent of an attempt: some tags, or (``ended``) all there is, its last word.

    ``planned`` has the stores' own addresses. ``record`` tells what must be there at the end.
    """

    attempt: Attempt
    planned: PlannedExperiment = field(repr=False)
    tags: frozenset[str] = frozenset()
    ended: bool = False
    record: Record | None = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something was not sent. ``passing``: it is worth another try; ``server``: whose fault."""

    text: str
    passing: bool
    server: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a job. ``sent`` are the names in ``out`` that the store has now."""

    job: Job
    sent: tuple[tuple[str, Version], ...] = ()
    troubles: tuple[Trouble, ...] = ()


class NotShownYet(HpcrunnerError):
    """The file system does not show here what the job side has written."""


class Sender:
    """Carries out jobs. ``is_away`` says whether a server was found unreachable just now."""

    def __init__(self, layout: Layout, is_away: Callable[[str], bool]) -> None:
        self._layout = layout
        self._is_away = is_away
        self._documents: dict[Path, Version] = {}  # sent by this process; again after a restart

    def send(self, job: Job) -> Answer:
        """Send what changed. Raises nothing."""
        mutable = {a.tag: a for a in job.planned.artifacts if a.mutable and carried(a.location)}
        mutable.pop(STATUS, None)
        tags = mutable.keys() if job.ended else job.tags & mutable.keys()
        expected = {s.tag: s for s in job.record.saved} if job.record else {}
        sent: list[tuple[str, Version]] = []
        troubles: list[Trouble] = []

        def one(tag: str) -> None:
            artifact = mutable[tag]
            task = partial(self._artifact, job.attempt, artifact, expected.get(tag))
            done = self._tried(f"artifact {tag}", artifact.location, task, troubles)
            if done is not None:
                sent.append(done)

        for tag in tags:
            if tag != RESULTS:
                one(tag)
        if METADATA in tags:
            self._send_documents(job, mutable[METADATA], troubles)
        if job.ended:
            with suppress(Exception):  # no condition of success: the gateway has the last word
                mirrors.compare(job.planned, job.attempt, self._layout)
        if RESULTS in tags and job.ended and not troubles:
            one(RESULTS)  # says that all the others are there
        return Answer(job, tuple(sent), tuple(troubles))

    def _tried(
        self,
        what: str,
        location: Location,
        task: Callable[[], tuple[str, Version] | None],
        troubles: list[Trouble],
    ) -> tuple[str, Version] | None:
        server = server_of(location)
        if self._is_away(server):
            troubles.append(Trouble(f"{what} was not saved: {server} is away", True, server))
            return None
        try:
            return task()
        except StoreUnreachable as error:
            trouble = Trouble(f"{what} was not saved: {error.line()}", True, server)
        except NotShownYet as error:
            trouble = Trouble(f"{what} was not saved: {error.line()}", True)
        except HpcrunnerError as error:
            trouble = Trouble(f"{what} was not saved: {error.line()}", False, server)
        except OSError as error:  # the shared file system's
            why = error.strerror or type(error).__name__
            trouble = Trouble(f"{what} was not saved: {why}", True)
        except Exception as error:  # whatever a store's client throws
            trouble = Trouble(f"{what} was not saved: {type(error).__name__}: {error}", False)
        troubles.append(trouble)
        return None

    def _artifact(
        self, attempt: Attempt, artifact: PlannedArtifact, expected: SavedArtifact | None
    ) -> tuple[str, Version] | None:
        """Send one artifact if it is another than the store has; what there is now."""
        place = self._layout.place(attempt, artifact.tag, mutable=True)
        if artifact.tag == METADATA:
            expected = None  # without a payload, its documents stand for it
        try:
            handle = _opened(place)
        except FileNotFoundError:
            if expected is not None:
                raise _not_shown(place) from None
            return None
        with os.fdopen(handle, "rb", buffering=0) as file:
            version = version_of(os.fstat(handle))
            mark = read_mark(self._layout.stored / place.name)
            if mark is None or mark.version != version:
                mark = Mark(version, _digest(file))
                if expected is None or expected.sha256 == mark.sha256:
                    file.seek(0)
                    store_for(artifact.location).put(artifact.location, file, version.size)
                    crashpoint("staging.sent")
                    write_mark(self._layout.stored / place.name, mark)
                    crashpoint("staging.marked")
        if expected is not None and expected.sha256 != mark.sha256:
            raise _not_shown(place)
        return place.name, version

    def _send_documents(self, job: Job, artifact: PlannedArtifact, troubles: list[Trouble]) -> None:
        """Single files of ``_metadata``: only a store that is away is worth another try."""
        folder = self._layout.documents / stem(job.attempt)
        try:
            names = sorted(n for n in os.listdir(folder) if not n.startswith("."))
        except OSError:
            return
        for name in names[:_MOST_DOCUMENTS]:
            location = beside(artifact, job.planned.document, name)
            found: list[Trouble] = []
            task = partial(self._document, folder / name, location)
            self._tried(f"metadata/{name}", location, task, found)
            troubles += [trouble for trouble in found if trouble.passing and trouble.server]

    def _document(self, path: Path, location: Location) -> None:
        handle = _opened(path)
        with os.fdopen(handle, "rb", buffering=0) as file:
            version = version_of(os.fstat(handle))
            if self._documents.get(path) != version:
                store_for(location).put(location, file, version.size)
                self._documents[path] = version

    def forget(self, attempts: Iterable[Attempt]) -> None:
        """Remove all there is of these. Raises OSError; what is missing is fine."""
        gone = {stem(attempt) for attempt in attempts}
        for folder in self._layout.by_attempt:
            for name in os.listdir(folder):
                if ".".join(name.split(".", 2)[:2]) in gone:
                    _remove(folder / name)
        for path in [p for p in list(self._documents) if p.parent.name in gone]:
            self._documents.pop(path, None)
        for name in gone:
            (self._layout.attempts / name).unlink(missing_ok=True)
        sync_folder(self._layout.attempts)

    def sweep(self, now: float) -> None:
        """Remove what no marker stands for: what a thread wrote while its attempt was removed."""
        for folder in self._layout.by_attempt:
            for entry in list(os.scandir(folder)):
                found = parsed(entry.name)
                with suppress(OSError):
                    old = entry.stat(follow_symlinks=False).st_ctime < now - _STRAY
                    if old and (found is None or not self._layout.marker(found[0]).exists()):
                        _remove(Path(entry.path))


def server_of(location: Location) -> str:
    """What stands and falls together, for people too."""
    scheme, _, rest = str(location).partition("://")
    if location.scheme == "http":
        return f"{scheme}://{urlsplit(location.endpoint).hostname}"
    return f"{scheme}://{rest.partition('/')[0]}"


def _opened(path: Path) -> int:
    """Opened, which makes a network file system ask its server; no link, no pipe."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise FileNotFoundError(str(path))
    return handle


def _digest(file: BinaryIO) -> str:
    sha256 = hashlib.sha256()
    while data := file.read(_CHUNK):
        sha256.update(data)
    return sha256.hexdigest()


def _not_shown(place: Path) -> NotShownYet:
    return NotShownYet(
        "the file that the job has written is not seen here",
        where=str(place),
        remedy="is the staging folder on a file system that login node and compute nodes share?",
    )


def _remove(path: Path) -> None:
    """A file, or a flat folder of files."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    with suppress(FileNotFoundError):
        for name in os.listdir(path):
            with suppress(OSError):
                (path / name).unlink()
        path.rmdir()
