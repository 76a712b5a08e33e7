"""What a client gets of an experiment that failed before it was submitted.

Each function writes what the job side would have written, and may be called again. They raise
StorageError and OSError.
"""

from __future__ import annotations

import io
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hpcrunner.errors import HpcrunnerError, one_line
from hpcrunner.gateway.experiment import Experiment, State
from hpcrunner.gateway.preparation import Failed
from hpcrunner.request.beside import beside
from hpcrunner.request.documents import (
    PREFIX,
    never_started,
    takes_documents,
)
from hpcrunner.request.model import Request
from hpcrunner.request.plan import PlannedArtifact, PlannedExperiment
from hpcrunner.request.requirements import is_old_client
from hpcrunner.request.resolve import StoreRules, resolve_artifact, under
from hpcrunner.request.results import RESULTS, RESULTS_FILE, results_document
from hpcrunner.storage.contract import StoreUnreachable

log = logging.getLogger(__name__)

OUTPUT = "output"
UNSAVED = f"artifact {OUTPUT} was not saved"
# Clients take a file of a result only if it is later than the end of their own submission.
_LATER = 5.0


def ended_unprepared(e: Experiment) -> bool:
    """Whether it ended since it could not be prepared."""
    return not e.batch and e.spec is not None and e.state is State.FAILED


def contacted_by(planned: PlannedExperiment, rules: StoreRules) -> PlannedExperiment:
    """The plan with the rules by which the gateway contacts stores, whoever was to fetch."""
    artifacts = tuple(
        replace(a, location=under(a.location, rules) or a.location) for a in planned.artifacts
    )
    return replace(planned, artifacts=artifacts, record=under(planned.record, rules))


def lines_of(failure: Failed) -> tuple[str, ...]:
    """What the output of an attempt that failed so says."""
    return (*failure.lines, PREFIX + one_line(failure.text))


def output_of(planned: PlannedExperiment) -> PlannedArtifact | None:
    """Where its output goes, if anywhere."""
    return next((a for a in planned.artifacts if a.tag == OUTPUT and a.mutable), None)


def write_output(artifact: PlannedArtifact, packages: Sequence[str], failure: Failed) -> None:
    """Write ``output``; ``packages`` tell the client's version."""
    from hpcrunner.storage.transfer import upload

    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / OUTPUT
        text = "".join(f"{line}\n" for line in lines_of(failure))
        file.write_text(text, encoding="utf-8", errors="replace")
        upload(
            file,
            artifact.location,
            Path(name),
            newest_mtime_floor=time.time() + _LATER,
            old_client=is_old_client(packages),
        )


def write_documents(planned: PlannedExperiment, failure: Failed, name: str) -> None:
    """Write the documents of its metadata. That they may not be written there is no error."""
    from hpcrunner.storage.stores import store_for

    artifact = takes_documents(planned)
    if artifact is None:
        return
    host, lines, now = os.uname().nodename, lines_of(failure), time.time_ns()
    documents = never_started(planned, name, host, failure.reason, lines, now)
    for file, content in documents.items():
        location = beside(artifact, planned.document, file)
        try:
            store_for(location).put(location, io.BytesIO(content), len(content))
        except StoreUnreachable:
            raise
        except HpcrunnerError as error:
            log.info("%s: metadata/%s was not written: %s", planned.id, file, error.line())


def write_results(e: Experiment, request: Request, rules: StoreRules) -> None:
    """Write ``_results``, where the request has it. For nothing but what a preparation ended."""
    artifact = request.artifact(RESULTS)
    if not ended_unprepared(e) or artifact is None or not artifact.mutable:
        return
    location = resolve_artifact(request, artifact, rules)
    if location is None:
        return
    from hpcrunner.storage.transfer import upload

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / RESULTS
        folder.mkdir()
        # With an output, that is there by now; else the text says that it is not.
        has_output = (output := request.artifact(OUTPUT)) is not None and output.mutable
        saved = (OUTPUT,) if has_output and UNSAVED not in e.text else ()
        document = results_document(request.key, os.uname().nodename, e.text, saved)
        (folder / RESULTS_FILE).write_text(document, encoding="utf-8")
        upload(folder, location, Path(name))
