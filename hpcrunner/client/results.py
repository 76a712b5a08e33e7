"""Reading an experiment's artifacts back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.location import Location
from hpcrunner.request.model import Request
from hpcrunner.request.parse import parse_message
from hpcrunner.request.resolve import USUAL, StoreRules, resolve_artifact
from hpcrunner.storage.contract import ArtifactNotFound
from hpcrunner.storage.transfer import Fetched, download


class NoSuchArtifact(HpcrunnerError):
    """The request has no artifact of that tag, or one without an address."""

    exit_code = 66  # EX_NOINPUT


class NoRequest(HpcrunnerError):
    """The experiment's message does not say any more, or never said, where its results are."""

    exit_code = 66  # EX_NOINPUT


class InTheWay(HpcrunnerError):
    """Something stands where a result is to go."""

    exit_code = 73  # EX_CANTCREAT


def request_in(message: bytes, where: str) -> Request:
    """The request in an experiment's message. Raises NoRequest and RequestError."""
    if not message:
        raise NoRequest(
            "its message has been removed, and with it the keys of its store",
            where=where,
            remedy="'hpcrunner status' names the addresses of what was saved",
        )
    request = parse_message(message)
    if not isinstance(request, Request):
        raise NoRequest("its message is sealed and was never opened", where=where)
    return request


def result_locations(request: Request, rules: StoreRules = USUAL) -> dict[str, Location]:
    """Where each result lies, or will: the mutable artifacts' addresses by tag, in message order.

    Raises RequestError for an address that cannot be made out.
    """
    found = ((a.tag, resolve_artifact(request, a, rules)) for a in request.artifacts if a.mutable)
    return {tag: location for tag, location in found if location is not None}


def fetch_results(
    request: Request, tags: Sequence[str], folder: Path, rules: StoreRules = USUAL
) -> Iterator[tuple[str, Fetched | None]]:
    """Fetch artifacts into ``<folder>/<tag>``, all results where no tags are given.

    Yields each as it has come; None for a result that has not been saved. Nothing is written
    over. Raises InTheWay, or what fetch_artifact does.
    """
    wanted = list(tags) or list(result_locations(request, rules))
    for tag in wanted:
        if request.artifact(tag) is not None and (folder / tag).exists():
            raise InTheWay("is there already", where=str(folder / tag), remedy="move it, or '--to'")
    for tag in wanted:
        try:
            fetched = fetch_artifact(request, tag, folder / tag, rules)
        except ArtifactNotFound:
            if tags:
                raise
            yield tag, None
        except BaseException:
            shutil.rmtree(folder / tag, ignore_errors=True)  # half of a model is no model
            raise
        else:
            yield tag, fetched


def fetch_artifact(
    request: Request, tag: str, destination: Path, rules: StoreRules = USUAL
) -> Fetched:
    """Fetch one artifact into the folder ``destination``, made if need be.

    A file that travels alone lies in the folder by its name: ``output`` as
    ``<destination>/output``. Raises NoSuchArtifact, RequestError or the StorageError of the
    kind (ArtifactNotFound: it has not been saved yet).
    """
    artifact = request.artifact(tag)
    location = resolve_artifact(request, artifact, rules) if artifact else None
    if artifact is None or location is None:
        tags = ", ".join(a.tag for a in request.artifacts)
        raise NoSuchArtifact(
            f"no artifact {tag!r} with an address",
            where=f"experiment {request.key}",
            remedy=f"it has {tags}",
        )
    return download(location, destination, artifact.unpack)
