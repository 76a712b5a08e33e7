"""What a client gets of an experiment that failed before it was submitted."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hpcrunner.gateway.experiment import Experiment, State
from hpcrunner.request.model import Request
from hpcrunner.request.resolve import StoreRules, resolve_artifact
from hpcrunner.request.results import RESULTS, RESULTS_FILE, results_document


def write_results(e: Experiment, request: Request, rules: StoreRules) -> None:
    """Write ``_results``, as the job side would have, where the request has it.

    For nothing but what a preparation ended. Raises RequestError, StorageError, OSError.
    """
    artifact = request.artifact(RESULTS)
    if e.batch or e.spec is None or e.state is not State.FAILED:
        return
    if artifact is None or not artifact.mutable:
        return
    location = resolve_artifact(request, artifact, rules)
    if location is None:
        return
    from hpcrunner.storage.transfer import upload

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / RESULTS
        folder.mkdir()
        document = results_document(request.key, os.uname().nodename, e.text, ())
        (folder / RESULTS_FILE).write_text(document, encoding="utf-8")
        upload(folder, location, Path(name))
