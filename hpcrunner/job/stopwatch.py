"""Wishes to stop that nobody sends to the job: they stand somewhere, and are looked for."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from hpcrunner.job.ending import STOPPED_BY_CLIENT
from hpcrunner.job.limits import Stop
from hpcrunner.request.plan import PlannedArtifact

LOOK_EVERY = 10.0
STATUS = "_status"
STATUS_FILE = "status.json"
_LARGEST = 1 << 20  # the artifact on disk; what is meant has a hundred bytes
# Looks once: the stop that is wished for, or None where there is none or nobody can tell.
Source = Callable[[], Stop | None]


class StopWatch:
    """Looks at each source every LOOK_EVERY seconds, on a thread of its own for each.

    A store that hangs holds up no other.
    """

    def __init__(self, sources: Iterable[Source], ask: Callable[[Stop], None]) -> None:
        self._ask = ask
        self._done = threading.Event()
        for source in sources:
            threading.Thread(target=self._look, args=(source,), daemon=True).start()

    def close(self) -> None:
        """No more looks."""
        self._done.set()

    def _look(self, source: Source) -> None:
        while not self._done.wait(LOOK_EVERY):
            if (stop := source()) is not None:
                self._ask(stop)
                return


def status_artifact(artifact: PlannedArtifact, scratch: Path) -> Source:
    """The source that the request's ``_status`` artifact is.

    It holds ``status.json``, ``{"key": …, "status": …}``, or is that file itself; the client
    writes it to stop the run. It is fetched anew for each look, into a folder in ``scratch``.
    """

    def look() -> Stop | None:
        from hpcrunner.storage.transfer import download

        with (
            suppress(Exception),  # missing, torn, unreachable: the next look may succeed
            tempfile.TemporaryDirectory(dir=scratch, prefix="status-") as folder,
        ):
            kept_as = artifact.staged.name if artifact.staged else ""
            download(
                artifact.location, Path(folder), artifact.unpack, budget=_LARGEST, name=kept_as
            )
            # Alone, and not in an archive, it is named as its object is.
            names = [entry.name for entry in Path(folder).iterdir()]
            name = names[0] if len(names) == 1 else STATUS_FILE
            content = (Path(folder) / name).read_bytes()
            return STOPPED_BY_CLIENT if says_stopped(content) else None
        return None

    return look


def says_stopped(content: bytes) -> bool:
    """Whether this is a ``status.json`` with the status ``stopped``, in whatever case."""
    try:
        status = json.loads(content)["status"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return isinstance(status, str) and status.lower() == "stopped"
