"""The process that owns the DRMAA session: ``… drmaa_child FD [LIBRARY]``.

slurm-drmaa exports the whole environment of its process into every job, keeps one session a
process, and may crash; so it lives here, alone with a scrubbed environment. It is called over
the socket FD (child_side.py):

``{"call": "hello"}`` → ``{"drms", "implementation", "version", "contact"}``
``{"call": "submit", "name", "script", "folder", "output", "native", "size"}`` → ``{"ids": […]}``
"""

from __future__ import annotations

import os
import sys
from typing import Any

from hpcrunner.schedulers.child_side import serve

_NOT_FOR_JOBS = ("LD_LIBRARY_PATH", "DRMAA_LIBRARY_PATH", "LC_CTYPE")


def main(arguments: list[str]) -> int:
    """Serve requests until the parent closes its end."""
    session = _Session(arguments[1] if len(arguments) > 1 else "")
    serve(int(arguments[0]), session)
    session.close()
    return 0


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

    def calls(self) -> dict[str, Any]:
        """See Library.calls."""
        return {"hello": self.hello, "submit": self.submit}

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
