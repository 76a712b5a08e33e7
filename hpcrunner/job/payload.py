"""The payload's words and environment. Pure: what a message says, nothing run yet."""

from __future__ import annotations

import os.path
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from hpcrunner.crashpoint import VARIABLE as CRASH
from hpcrunner.errors import HpcrunnerError
from hpcrunner.job.allocation import allocation_of, allocation_variables
from hpcrunner.job.claim import restart_count
from hpcrunner.job.workspace import Workspace
from hpcrunner.request import scheduler_words
from hpcrunner.request.plan import PlannedExperiment
from hpcrunner.request.reasons import Reason

CONTAINER_PYTHON = "python3"
MODULE = "-m"  # the filename of a script that the client was given as ``pkg::mod``

# The scheduler's and our own words: a message's ``config.env`` may not change them. The device
# lists are the scheduler's allocation, PYTHONHOME would take the interpreter's library away.
_PROTECTED = re.compile(
    rf"({'|'.join(scheduler_words.PREFIXES)}).*|(PMI|PMIX)_.*|STUDIOML_.*|TMPDIR|VIRTUAL_ENV|PYTHONHOME"
    r"|(CUDA|NVIDIA|ROCR|HIP|ZE)_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL|ZE_AFFINITY_MASK"
)
_PERCENT_NAME = re.compile(r"%([^%]*)%")


class PayloadNotStarted(HpcrunnerError):
    """The payload cannot be started as the request says."""

    exit_code = 127
    reason = Reason.PAYLOAD_NOT_STARTED


@dataclass(frozen=True, slots=True)
class PythonHome:
    """The Python of a payload: ``python`` to run, ``venv`` where it is a virtual environment."""

    python: str
    venv: str = ""


def payload_words(
    experiment: PlannedExperiment, python: str, workspace: Workspace
) -> tuple[str, ...]:
    """The words to execute, in a container after those of its exec line; no shell reads them.

    Without a file they are the arguments of the image's own program. Raises PayloadNotStarted
    where the file is not in the workspace or nothing is to be run.
    """
    name = experiment.filename
    if name is None:
        if experiment.image is None:
            raise PayloadNotStarted(
                "names neither a file nor a container",
                where="request",
                remedy="set experiment.filename",
            )
        return experiment.args
    if name == MODULE:
        if not experiment.args:
            raise PayloadNotStarted("'-m' without a module", where="request")
        return (python, MODULE, *experiment.args)
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise PayloadNotStarted(
            "leads out of the workspace",
            where=f"filename {name!r}",
            remedy="name the file by its path inside the workspace",
        )
    if not (workspace.cwd / path).is_file():
        raise PayloadNotStarted(
            "is not in the workspace",
            where=f"filename {name!r}",
            remedy="is it part of the uploaded workspace, and its path relative to it?",
        )
    # A leading dash would be an option of the interpreter.
    script = f"./{name}" if name.startswith("-") else name
    return (python, script, *experiment.args)


def payload_environment(
    experiment: PlannedExperiment,
    workspace: Workspace,
    python: PythonHome,
    job: Mapping[str, str],
    tmp: str = "",
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The payload's environment, and the names of ``config.env`` that were left out.

    The job's own environment goes through as it is; of a payload in a container only what is to
    be seen inside is given here, and the ``tmp`` that it has there. ``config.env`` is laid over
    it with ``%NAME%`` standing for the job's non-empty value of NAME; what is ours comes last,
    with the variables of the allocation among it.
    """
    result = dict(job)
    refused = []
    for name, value in expanded(experiment.environment, job):
        if not name or "=" in name or "\0" in name + value or _PROTECTED.fullmatch(name):
            refused.append(name)
        else:
            result[name] = value
    result.update(
        PYTHONUNBUFFERED="TRUE",
        STUDIOML_EXPERIMENT=experiment.name,
        STUDIOML_HOME=str(workspace.home),
        STUDIOML_ATTEMPT=str(experiment.attempt),
        STUDIOML_RESTARTS=str(restart_count(job)),
        TMPDIR=tmp or str(workspace.tmp),
    )
    result.pop(CRASH, None)
    # The client library prefers this mapping to the folders; one from outside is not ours.
    result.pop("STUDIOML_ARTIFACT_MAPPING", None)
    result.pop("VIRTUAL_ENV", None)
    if python.venv:
        result.pop("PYTHONHOME", None)
        result["VIRTUAL_ENV"] = python.venv
        result["PATH"] = f"{python.venv}/bin{os.pathsep}{result.get('PATH') or os.defpath}"
    fixed, usual = allocation_variables(
        allocation_of(job, experiment.cpus, experiment.gpus, experiment.gpu_vendor)
    )
    return {**usual, **result, **fixed}, tuple(refused)


def expanded(
    environment: Sequence[tuple[str, str]], job: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    """``config.env`` with each ``%NAME%`` replaced by the job's value of NAME if it has one.

    The marks are paired from the left, on the value as it came: what is put in is not read again.
    """
    return tuple(
        (name, _PERCENT_NAME.sub(lambda m: job.get(m[1]) or m[0], value))
        for name, value in environment
    )
