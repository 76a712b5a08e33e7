"""The child's side of a process that owns a scheduler's library; the parent's is child.py.

Requests and answers are JSON objects, one a line, over a socket that is given by its number. What
a library prints goes to stderr, so that it cannot be taken for an answer. The standard library
alone: a child may run in an interpreter that has no more.

A request's member ``call`` names a method. A failure answers ``{"error": EXCEPTION'S CLASS,
"text", "sent"}``; ``sent`` is False where it came before anything could have gone to the
scheduler.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any, Protocol


class Library(Protocol):
    """What a child owns. ``sent`` is set before something goes to the scheduler."""

    sent: bool

    def calls(self) -> dict[str, Any]:
        """What may be called, by name."""
        ...


def serve(number: int, library: Library) -> None:
    """Answer requests on the socket of that number until the parent closes its end."""
    channel = socket.socket(fileno=number)
    channel.set_inheritable(False)
    os.dup2(2, 1)
    with channel, channel.makefile("rb") as requests:
        for line in requests:
            try:
                channel.sendall(_answer(library, json.loads(line)) + b"\n")
            except OSError:
                break


def _answer(library: Library, request: dict[str, Any]) -> bytes:
    library.sent = False
    try:
        answer = library.calls()[request.pop("call")](**request)
    except Exception as error:  # the parent is the judge of all of them
        answer = {"error": type(error).__name__, "text": str(error), "sent": library.sent}
    return json.dumps(answer).encode()
