"""Whether a store can be reached from here, asked of an object that need not be there."""

from __future__ import annotations

import os
import queue
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

from hpcrunner.request.location import Location
from hpcrunner.storage.contract import ArtifactDenied, ArtifactNotFound, StoreUnreachable
from hpcrunner.storage.guard import check_name
from hpcrunner.storage.stores import looker_for, store_for

_PORTS = {"http": 80, "https": 443}
_CONNECT = 5.0  # seconds
PATIENCE = 30.0  # seconds: where a store hangs, its clients try for many minutes


def reach(location: Location, patience: float = PATIENCE) -> str:
    """Ask the store, and say in a few words what it answered.

    Raises the StorageError of the kind: a bucket or folder that is not there is one, an object
    that is not there is none. A server of one's own is knocked at first, since S3's clients try for
    long. One that does not answer in time is left to a thread that nobody waits for.
    """
    answers: queue.SimpleQueue[str | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(_answer(location))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, name="reach", daemon=True).start()
    try:
        answer = answers.get(timeout=patience)
    except queue.Empty:
        raise StoreUnreachable(
            f"no answer within {patience:g} s",
            where=str(location),
            remedy="it takes connections, or is a file system that hangs; is the store well?",
        ) from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _answer(location: Location) -> str:
    if looker_for(location) is None:
        return _folder(location)
    if location.endpoint:
        _knock(location)
    try:
        with store_for(location).open(location):
            return "answers, and lets read"
    except ArtifactNotFound as error:
        if "object" not in error.what:
            raise
        return "answers"
    except ArtifactDenied as error:
        # What S3 says of an object that is not there, to those who may not list.
        if "AccessDenied" not in error.what:
            raise
        return "answers, and lets nobody list"


def _folder(location: Location) -> str:
    folder = Path(location.key).parent
    if not folder.is_dir():
        raise ArtifactNotFound("no such folder", where=str(folder), remedy="make it")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise ArtifactDenied("may not be read", where=str(folder), remedy="chmod u+rwx")
    return "is there"


def _knock(location: Location) -> None:
    parts = urlsplit(location.endpoint)
    host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 443)
    if location.hosts is not None:
        check_name(location.hosts, host)
    try:
        socket.create_connection((host, port), _CONNECT).close()
    except OSError as error:
        raise StoreUnreachable(
            f"no connection to {host}:{port} ({error.strerror or error})",
            where=str(location),
            remedy="is the store up, and does this host reach it?",
        ) from None
