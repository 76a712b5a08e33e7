"""The ``_metadata`` artifact: written on the node, saved as a tar, and each file by itself.

The Python client reads the tar back as it does any artifact's. Who looks over many experiments
reads ``metadata/<file>`` at the root of the same bucket, where every attempt of every experiment
has files of its own: see accession.py.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from hpcrunner.accessions import Taken, accession_for
from hpcrunner.errors import HpcrunnerError
from hpcrunner.job.events import Events
from hpcrunner.job.metadata import Metadata
from hpcrunner.job.save import Upload
from hpcrunner.request.beside import FOLDER, beside
from hpcrunner.request.documents import (
    METADATA,
    REQUEST,
    SCRAPE,
)
from hpcrunner.request.plan import PlannedArtifact, PlannedExperiment
from hpcrunner.request.record import SavedArtifact
from hpcrunner.storage.contract import StoreUnreachable
from hpcrunner.storage.stores import store_for

MOST_FILES = 1000  # of the payload's own that are uploaded one by one
_held: list[Taken] = []
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def accession_of(experiment: PlannedExperiment, now: float) -> str:
    """A name for this attempt that no other has had, nor takes while this process lives."""
    _held.append(accession_for(experiment, now))
    return _held[-1].name


class MetadataFiles:
    """What is written and uploaded of an attempt's metadata; one save at a time.

    Uploading single files is no condition of success: what fails there is told as an event and
    tried again with the next save. With ``wanted`` False the artifact is one like any other.
    """

    def __init__(
        self,
        metadata: Metadata,
        experiment: PlannedExperiment,
        folder: Path,
        events: Events,
        *,
        wanted: bool = True,
    ) -> None:
        self._wanted = wanted
        self._metadata = metadata
        self._document = experiment.document
        self._folder = folder
        self._events = events
        self._sent: dict[str, str] = {}  # by name: what tells one content from another
        self._told: set[str] = set()

    def refresh(self, tag: str = METADATA) -> None:
        """Write the documents as they are now, before an artifact of that tag is saved."""
        if tag != METADATA or not self._wanted:
            return
        with suppress(OSError):
            self._folder.mkdir(mode=0o700)
        with suppress(OSError), _opened(self._folder) as folder:
            for name, content in self._metadata.files().items():
                _write(folder, name, content)

    def uploading(self, upload: Upload, tar: Callable[[], bool]) -> Upload:
        """``upload`` for every artifact, and for ``_metadata`` its files one by one as well.

        While ``tar`` is False only these: without a payload there is nothing to pack, and the tar
        of an earlier attempt stays.
        """

        def both(artifact: PlannedArtifact, folder: Path) -> SavedArtifact:
            if artifact.tag != METADATA or not self._wanted:
                return upload(artifact, folder)
            saved = upload(artifact, folder) if tar() else None
            ours = self._publish(artifact)
            return saved or ours

        return both

    def _publish(self, artifact: PlannedArtifact) -> SavedArtifact:
        import hashlib

        documents = self._metadata.files()
        for name, content in documents.items():
            digest = hashlib.sha256(content).hexdigest()
            self._put(artifact, name, digest, io.BytesIO(content), len(content))
        with suppress(OSError), _opened(self._folder) as folder:
            for name, handle in _regular_files(folder):
                with os.fdopen(handle, "rb", buffering=0) as file:
                    status = os.fstat(handle)
                    mark = f"{status.st_ino} {status.st_size} {status.st_mtime_ns}"
                    if name not in documents and self._is_theirs(name):
                        self._put(artifact, name, mark, cast(BinaryIO, file), status.st_size)
        name, content = next(iter(documents.items()))
        where = str(beside(artifact, self._document, name))
        return SavedArtifact(METADATA, where, len(content), hashlib.sha256(content).hexdigest())

    def _is_theirs(self, name: str) -> bool:
        if name.startswith((SCRAPE, REQUEST)):
            return self._tell(name, "has the name of another attempt's document")
        if name not in self._sent and len(self._sent) >= MOST_FILES:
            return self._tell("", f"more than {MOST_FILES} files; the tar has them all")
        return True

    def _put(
        self, artifact: PlannedArtifact, name: str, mark: str, body: BinaryIO, size: int
    ) -> None:
        if self._sent.get(name) == mark:
            return
        location = beside(artifact, self._document, name)
        try:
            store_for(location).put(location, body, size)
        except StoreUnreachable:
            raise  # tried again as long as there is time
        except HpcrunnerError as error:
            self._tell(name, error.line())
        except Exception as error:  # whatever a store's client throws, or a file that shrinks
            self._tell(name, f"{type(error).__name__}: {error}")
        else:
            self._sent[name] = mark

    def _tell(self, name: str, why: str) -> bool:
        text = f"not uploaded as {FOLDER}/{name or '…'}: {why}"
        if text not in self._told and len(self._told) < MOST_FILES:
            self._told.add(text)
            self._events.tell("metadata_failed", text)
        return False


def _regular_files(folder: int) -> Iterator[tuple[str, int]]:
    """Names and open handles of what is to be uploaded: no links, nothing hidden."""
    for name in sorted(os.listdir(folder)):
        if name.startswith(".") or not _is_text(name):
            continue
        with suppress(OSError):
            handle = os.open(name, _READ, dir_fd=folder)
            if stat.S_ISREG(os.fstat(handle).st_mode):
                yield name, handle
            else:
                os.close(handle)


def _is_text(name: str) -> bool:
    try:
        return name.isprintable() and bool(name.encode())
    except UnicodeEncodeError:
        return False


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """The folder itself, though a payload may have put a link in its place: that is an OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def _write(folder: int, name: str, content: bytes) -> None:
    """Replace a file by rename, unless it has this content already."""
    with suppress(OSError), os.fdopen(os.open(name, _READ, dir_fd=folder), "rb") as file:
        if file.read(len(content) + 1) == content:
            return
    unfinished = f".{os.urandom(8).hex()}.part"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(unfinished, flags, 0o600, dir_fd=folder), "wb") as file:
            file.write(content)
        os.rename(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with suppress(OSError):
            os.unlink(unfinished, dir_fd=folder)
        raise
