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

from hpcrunner.request.accession import accession, base62

_DNS_PATIENCE = 2.0
_MOST_SECONDS = 3600
_held: list[object] = []  # for as long as this process lives


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


def take_accession(host: str, now: float, taken: Callable[[str], bool]) -> str:
    """A name that no other attempt on this node has or had: the first free second from ``now``.

    ``taken`` is asked whether an earlier attempt has left something under a name; those that run
    at the same time on this node are seen by a socket each holds until its process ends.
    """
    name = ""
    for second in range(int(now), int(now) + _MOST_SECONDS):
        name = accession(host, second)
        if _hold(f"{base62(second)}-{host}") and not taken(name):
            break
    return name


def _hold(name: str) -> bool:
    """Bind an abstract socket (unix(7)) of that name: node-wide, and gone with this process."""
    import socket

    holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        holder.bind(f"\0hpcrunner-{name}"[:100])
    except OSError as error:
        holder.close()
        return error.errno != errno.EADDRINUSE  # a node without such sockets: nobody can tell
    _held.append(holder)
    return True
