"""Reading an experiment's artifacts back."""

from __future__ import annotations

from pathlib import Path

from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.location import Location
from hpcrunner.request.model import Request
from hpcrunner.request.resolve import resolve_artifact
from hpcrunner.storage.transfer import Fetched, download


class NoSuchArtifact(HpcrunnerError):
    """The request has no artifact of that tag, or one without an address."""

    exit_code = 66  # EX_NOINPUT


def result_locations(request: Request) -> dict[str, Location]:
    """Where each result lies, or will: the mutable artifacts' addresses by tag, in message order.

    Raises RequestError for an address that cannot be made out.
    """
    found = ((a.tag, resolve_artifact(request, a)) for a in request.artifacts if a.mutable)
    return {tag: location for tag, location in found if location is not None}


def fetch_artifact(request: Request, tag: str, destination: Path) -> Fetched:
    """Fetch one artifact into the folder ``destination``, made if need be.

    A file that travels alone lies in the folder by its name: ``output`` as
    ``<destination>/output``. Raises NoSuchArtifact, RequestError or the StorageError of the
    kind (ArtifactNotFound: it has not been saved yet).
    """
    artifact = request.artifact(tag)
    location = resolve_artifact(request, artifact) if artifact else None
    if artifact is None or location is None:
        tags = ", ".join(a.tag for a in request.artifacts)
        raise NoSuchArtifact(
            f"no artifact {tag!r} with an address",
            where=f"experiment {request.key}",
            remedy=f"it has {tags}",
        )
    return download(location, destination, artifact.unpack)
