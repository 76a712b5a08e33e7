"""The folder through which the gateway carries artifacts, private to its user.

Names are ``<experiment>.<attempt>.<tag>``; each folder is flat, so that one listing tells what is
new of all experiments::

    attempts/<experiment>.<attempt>   there as long as anything of that attempt may be; not empty
                                      where it could not be sent, and stays
    objects/<sha256>                  what was fetched, by content
    known/<hash>                      address and version of an object -> its SHA-256
    in/<name>                         immutable artifacts: links to objects
    out/<name>                        mutable ones: as fetched, then as the job saved them
    stored/<name>                     which version of out/<name> the store has; see marks.py
    documents/<experiment>.<attempt>/ single files of ``_metadata``
    records/<experiment>.<attempt>    what the job says of itself to the client; see mirrors.py
    wheels/<key>/                     Python packages; see wheels.py
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, unquote

from hpcrunner.gateway.preparation import Attempt
from hpcrunner.request.location import Location
from hpcrunner.request.plan import PlannedArtifact, PlannedExperiment, Staged
from hpcrunner.request.redact import redact_document
from hpcrunner.storage.transfer import file_name

STATUS, METADATA, RESULTS, IMAGE = "_status", "_metadata", "_results", "_singularity"
NOT_FETCHED = frozenset({METADATA, RESULTS, IMAGE})
_KEPT = b"kept: not all of it could be sent\n"
_NAME = re.compile(r"([0-9a-f]{12})\.([0-9]{1,9})(?:\.(.+))?")


class Layout:
    """Paths below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.attempts = root / "attempts"
        self.objects = root / "objects"
        self.known = root / "known"
        self.incoming = root / "in"
        self.out = root / "out"
        self.stored = root / "stored"
        self.documents = root / "documents"
        self.records = root / "records"
        self.wheels = root / "wheels"

    def prepare(self) -> None:
        """Make the folders that are missing. Raises OSError."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(0o700)
        for folder in (self.attempts, self.objects, self.known, *self.by_attempt, self.wheels):
            folder.mkdir(mode=0o700, exist_ok=True)

    @property
    def by_attempt(self) -> tuple[Path, ...]:
        """The folders whose entries belong to one attempt each."""
        return self.incoming, self.out, self.stored, self.documents, self.records

    def marker(self, attempt: Attempt) -> Path:
        """There as long as anything of that attempt may be."""
        return self.attempts / stem(attempt)

    def keep(self, attempt: Attempt) -> None:
        """Have what is there of an ended attempt stay; in vain where the file system is away."""
        with suppress(OSError), self.marker(attempt).open("wb") as file:
            file.write(_KEPT)
            file.flush()
            os.fsync(file.fileno())

    def kept(self, attempt: Attempt) -> bool:
        """Whether it is to stay, or nobody knows."""
        try:
            return self.marker(attempt).stat().st_size > 0
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def record(self, attempt: Attempt) -> Path:
        """The job's side of the client's record."""
        return self.records / stem(attempt)

    def place(self, attempt: Attempt, tag: str, *, mutable: bool) -> Path:
        """Where the job side finds an artifact, and puts it. What the job cannot change stands
        apart from what is looked at for changes.
        """
        folder = self.out if mutable and tag != STATUS else self.incoming
        return folder / f"{stem(attempt)}.{quote(tag, safe='')}"

    def staged(self, attempt: Attempt, planned: PlannedExperiment) -> PlannedExperiment:
        """The plan as the job side gets it: no address but files, and no credentials.

        What is a file already stays where it is: the nodes see it as the gateway does.
        """
        record = planned.record
        if record is not None and carried(record):
            record = Location("file", key=str(self.record(attempt)))
        return replace(
            planned,
            artifacts=tuple(self._artifact(attempt, a) for a in planned.artifacts),
            record=record,
            document=json.dumps(redact_document(json.loads(planned.document))),
        )

    def _artifact(self, attempt: Attempt, artifact: PlannedArtifact) -> PlannedArtifact:
        if not carried(artifact.location):
            return artifact
        place = self.place(attempt, artifact.tag, mutable=artifact.mutable)
        return replace(
            artifact,
            location=Location("file", key=str(place)),
            staged=Staged(
                address=str(artifact.location),
                name=file_name(artifact.location, artifact.tag),
                documents=str(self.documents / stem(attempt)),
            ),
        )


def carried(location: Location) -> bool:
    """Whether the gateway carries what is there."""
    return location.scheme != "file"


def stem(attempt: Attempt) -> str:
    """What the names of an attempt begin with."""
    return f"{attempt[0]}.{attempt[1]}"


def parsed(name: str) -> tuple[Attempt, str] | None:
    """The attempt and tag ("" for none) of a name; None for a name that is not ours."""
    match = _NAME.fullmatch(name)
    return ((match[1], int(match[2])), unquote(match[3] or "")) if match else None
