"""The process that owns the DRMAA session: ``… drmaa_child FD [LIBRARY]``.

slurm-drmaa exports the whole environment of its process into every job, keeps one session a
process, and may crash; so it lives here, alone with a scrubbed environment. Requests and
answers are JSON objects, one a line, over the socket FD. What the library prints goes to
stderr, so that it cannot be taken for an answer.

``{"call": "hello"}`` → ``{"drms", "implementation", "version", "contact"}``
``{"call": "submit", "name", "script", "folder", "output", "native", "size"}`` → ``{"ids": […]}``

A failure answers ``{"error": EXCEPTION'S CLASS, "text", "sent"}``; ``sent`` is False where the
failure came before anything could have gone to the scheduler.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any

_NOT_FOR_JOBS = ("LD_LIBRARY_PATH", "DRMAA_LIBRARY_PATH", "LC_CTYPE")


def main(arguments: list[str]) -> int:
    """Serve requests until the parent closes its end."""
    channel = socket.socket(fileno=int(arguments[0]))
    channel.set_inheritable(False)
    os.dup2(2, 1)
    session = _Session(arguments[1] if len(arguments) > 1 else "")
    with channel, channel.makefile("rb") as requests:
        for line in requests:
            try:
                channel.sendall(_answer(session, json.loads(line)) + b"\n")
            except OSError:
                break
    session.close()
    return 0


def _answer(session: _Session, request: dict[str, Any]) -> bytes:
    session.sent = False
    try:
        submit = request.pop("call") == "submit"
        answer = session.submit(**request) if submit else session.hello()
    except Exception as error:  # the parent is the judge of all of them
        answer = {"error": type(error).__name__, "text": str(error), "sent": session.sent}
    return json.dumps(answer).encode()


class _Session:
    """The one session, opened by the first call that needs it."""

    def __init__(self, library: str) -> None:
        self._library = library
        self._drmaa: Any = None
        self.sent = False

    def _open(self) -> Any:
        if self._drmaa is None:
            if self._library:
                os.environ["DRMAA_LIBRARY_PATH"] = self._library
            import drmaa  # loads the library, hence here and not above

            # A change of os.environ changes the process's own, which the library reads.
            for name in _NOT_FOR_JOBS:
                os.environ.pop(name, None)
            drmaa.Session.initialize()
            self._drmaa = drmaa
        return self._drmaa

    def hello(self) -> dict[str, Any]:
        drmaa = self._open()
        return {
            "drms": drmaa.Session.drmsInfo,
            "implementation": drmaa.Session.drmaaImplementation,
            "version": str(drmaa.Session.version),
            "contact": drmaa.Session.contact,
        }

    def submit(
        self, *, name: str, script: str, folder: str, output: str, native: str, size: int
    ) -> dict[str, Any]:
        drmaa = self._open()
        template = drmaa.Session.createJobTemplate()
        try:
            template.jobName = name
            template.remoteCommand = script
            template.workingDirectory = folder
            template.outputPath = ":" + output
            template.joinFiles = True
            template.nativeSpecification = native
            self.sent = True
            if size == 1:
                return {"ids": [drmaa.Session.runJob(template)]}
            return {"ids": drmaa.Session.runBulkJobs(template, 1, size, 1)}
        finally:
            drmaa.Session.deleteJobTemplate(template)

    def close(self) -> None:
        if self._drmaa is not None:
            self._drmaa.Session.exit()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
