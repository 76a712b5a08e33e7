"""A request → one planned attempt: every address resolved, every default settled."""

from __future__ import annotations

from hpcrunner.request.errors import RequestError
from hpcrunner.request.faults import NO_RETRIES, RetriesLeft
from hpcrunner.request.image import PlannedImage
from hpcrunner.request.model import Request
from hpcrunner.request.naming import experiment_name
from hpcrunner.request.plan import PlannedArtifact, PlannedExperiment
from hpcrunner.request.resolve import SUPPORTED, USUAL, StoreRules, resolve_artifact, resolve_record
from hpcrunner.request.stores import CONTAINER, WORKSPACE

SAVE_INTERVAL = 600.0  # seconds, where config.saveWorkspaceFrequency is not set
METRICS_INTERVAL = 60.0  # and config.saveMetricsFrequency


def plan_experiment(
    request: Request,
    *,
    id: str,
    attempt: int,
    exec_words: tuple[str, ...] = (),
    image: PlannedImage | None = None,
    retries: RetriesLeft = NO_RETRIES,
    rules: StoreRules = USUAL,
) -> PlannedExperiment:
    """One attempt of ``request`` for the job side, with the gateway's ``id`` for it.

    ``retries`` are those that may follow it; ``rules`` are the site's about stores.
    Its GPUs are the site's to say, and left open. ``_singularity`` is left out (trust.py makes
    ``image`` of it), and so are artifacts without an address. Raises RequestError where an
    address cannot be used, or the code has none.
    """
    artifacts = []
    for artifact in request.artifacts:
        if artifact.tag == CONTAINER:
            continue
        location = resolve_artifact(request, artifact, rules)
        if location is not None:
            artifacts.append(
                PlannedArtifact(
                    tag=artifact.tag,
                    location=location,
                    mutable=artifact.mutable,
                    unpack=artifact.unpack,
                    save_frequency=artifact.save_frequency,
                )
            )
        elif artifact.tag == WORKSPACE:
            raise RequestError(
                "no address to fetch the code from",
                where=f"experiment.artifacts.{WORKSPACE}.qualified",
                remedy=f"use {SUPPORTED}",
            )
    return PlannedExperiment(
        id=id,
        key=request.key,
        name=experiment_name(request.key),
        attempt=attempt,
        filename=request.filename,
        args=request.args,
        artifacts=tuple(artifacts),
        python_version=request.python_version,
        python_packages=request.python_packages,
        pip=request.pip,
        environment=request.environment,
        max_duration=request.max_duration,
        expires_at=request.expires_at,
        disk_budget=request.resources.hdd,
        save_interval=SAVE_INTERVAL if request.save_interval is None else request.save_interval,
        cpus=request.resources.cpus,
        exec_words=exec_words,
        image=image,
        pythonenv=request.pythonenv,
        record=resolve_record(request, rules),
        document=request.document,
        retries=retries,
        metrics_interval=request.metrics_interval or METRICS_INTERVAL,
    )
