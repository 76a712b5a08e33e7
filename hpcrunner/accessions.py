"""The name of one attempt in a bucket that many experiments share: ``<host>-<seconds>``.

The seconds since the epoch are written in base 62, so that names of one host sort by time. Tasks
of an array start on one node within the same second; each takes the next second that is free.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hpcrunner.request.accession import accession, base62
from hpcrunner.request.beside import beside
from hpcrunner.request.documents import scrape_name, takes_documents
from hpcrunner.request.location import Location
from hpcrunner.request.plan import PlannedExperiment
from hpcrunner.storage.contract import StorageError
from hpcrunner.storage.stores import store_for

if TYPE_CHECKING:  # the job side starts often, and does not always need one
    import socket

_DNS_PATIENCE = 2.0
_MOST_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Taken:
    """A name, nobody else's on this node until it is let go or this process ends."""

    name: str
    _holder: socket.socket | None = field(default=None, repr=False)

    def let_go(self) -> None:
        """Once something lies under the name, that keeps others from it."""
        if self._holder is not None:
            self._holder.close()


def host_name() -> str:
    """This host's full name; its short one where DNS does not answer soon."""
    short = os.uname().nodename
    names = [short]
    if "." not in short:

        def ask() -> None:
            import socket

            names.append(socket.getfqdn(short))

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(_DNS_PATIENCE)
    name = names[-1]
    chosen = name if name and not name.startswith("localhost") else short
    return re.sub(r"[^A-Za-z0-9.-]", "-", chosen)


def accession_for(experiment: PlannedExperiment, now: float, reserved: Path | None = None) -> Taken:
    """A name for this attempt that no other has had: asks the bucket, if there is one.

    What the gateway carries is not in its bucket yet: a file in the folder ``reserved`` takes the
    name too. It is removed after an hour, as anything there that is nobody's.
    """
    artifact = takes_documents(experiment)
    if artifact is not None and artifact.staged is not None:
        reserved = Path(artifact.staged.documents).parent

    def taken(name: str) -> bool:
        if artifact is None:
            return False
        if reserved is not None and not _reserve(reserved / f".{name}"):
            return True
        return _exists(beside(artifact, experiment.document, scrape_name(name)))

    return take_accession(host_name(), now, taken)


def take_accession(host: str, now: float, taken: Callable[[str], bool]) -> Taken:
    """A name that no other attempt on this node has or had: the first free second from ``now``.

    ``taken`` is asked whether an earlier attempt has left something under a name; those that run
    at the same time on this node are seen by a socket that each of them holds.
    """
    name, holder = "", None
    for second in range(int(now), int(now) + _MOST_SECONDS):
        name = accession(host, second)
        free, holder = _hold(f"{base62(second)}-{host}")
        if free and not taken(name):
            break
        if holder is not None:
            holder.close()
    return Taken(name, holder)


def _hold(name: str) -> tuple[bool, socket.socket | None]:
    """Bind an abstract socket (unix(7)) of that name: node-wide, and gone with this process.

    Returns whether the name is free, and what holds it.
    """
    import socket

    holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        holder.bind(f"\0hpcrunner-{name}"[:100])
    except OSError as error:
        holder.close()
        return error.errno != errno.EADDRINUSE, None  # a node without such sockets: nobody can tell
    return True, holder


def _reserve(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return False
    except OSError:
        return True  # nobody can tell
    return True


def _exists(location: Location) -> bool:
    try:
        with store_for(location).open(location):
            return True
    except (StorageError, OSError):
        return False  # not there, or nobody can tell
