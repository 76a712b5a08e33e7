"""``_results``: the artifact by which a client sees that an experiment is over.

It holds one file, written and uploaded after everything else, and only where no other attempt
follows; see docs/payloads.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from hpcrunner.job.events import Events
from hpcrunner.job.save import Saver, Until, Upload
from hpcrunner.job.workspace import Workspace
from hpcrunner.request.plan import PlannedExperiment
from hpcrunner.request.record import SavedArtifact
from hpcrunner.request.results import RESULTS, RESULTS_FILE, results_document


def save_results(
    experiment: PlannedExperiment,
    workspace: Workspace,
    error: str,
    saved: Iterable[str],
    upload: Upload,
    events: Events,
    until: Until,
) -> tuple[list[str], tuple[SavedArtifact, ...]]:
    """Write and upload it, where the request has such a mutable artifact.

    ``error`` and ``saved`` as in write_results. Returns why it was not saved, if so, and what was.
    """
    wanted = [a for a in experiment.artifacts if a.tag == RESULTS and a.mutable]
    if not wanted:
        return [], ()
    try:
        write_results(workspace.tag(RESULTS), experiment.key, os.uname().nodename, error, saved)
    except OSError as fault:
        return [f"artifact {RESULTS} was not written: {fault.strerror}"], ()
    saver = Saver(wanted, workspace, 0.0, upload, events, on_saved=lambda: None)
    return saver.finish(until), saver.saved


def write_results(folder: Path, key: str, host: str, error: str, saved: Iterable[str]) -> None:
    """Write the file; ``error`` is empty after a success, ``saved`` the tags that were uploaded.

    Raises OSError.
    """
    document = results_document(key, host, error, saved)
    if folder.is_symlink():
        folder.unlink()
    folder.mkdir(mode=0o700, exist_ok=True)
    # What the payload may have left there is not for the client, and may be a link, as the folder.
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with suppress(FileNotFoundError):
            os.unlink(RESULTS_FILE, dir_fd=handle)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(RESULTS_FILE, flags, 0o600, dir_fd=handle), "wb") as file:
            file.write(document.encode())
    finally:
        os.close(handle)
