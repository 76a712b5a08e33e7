"""The Python of a payload in a container: the image's, or an environment built on top of it.

Such an environment lies in the site's cache beside the others (environment.py), under a key that
changes with the image. It is built in the container, by the image's venv and pip, or where it has
none by uv, which is bound into it for that; what the image has installed is seen in it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from hpcrunner.interpreter import PROBE, Interpreter, uv_here
from hpcrunner.job.allocation import allocation_of
from hpcrunner.job.build import (
    Inside,
    build,
    builder_environment,
)
from hpcrunner.job.cache import start_sweep
from hpcrunner.job.container import (
    Container,
    ContainerEnded,
    bindable,
    failure_of,
    inside_variables,
    write_variables,
)
from hpcrunner.job.environment import (
    LOG_NAME,
    cache_folder,
    cached_environment,
    environment_folder,
    environment_key,
    phases_of,
    studioml_of,
)
from hpcrunner.job.events import Events
from hpcrunner.job.payload import CONTAINER_PYTHON, PythonHome, expanded
from hpcrunner.request.plan import NodeSetup, PlannedExperiment
from hpcrunner.request.requirements import SETTING, EnvironmentFailed, installer_settings

_PROBE = (
    f"{PROBE};from importlib.util import find_spec;"
    "print(int(bool(find_spec('venv') and find_spec('ensurepip'))))"
)
_PROBE_TIMEOUT = 600.0  # the image may come from a slow file system, for the first time


def prepare_inside(
    container: Container, experiment: PlannedExperiment, setup: NodeSetup, events: Events
) -> PythonHome:
    """The Python to run the payload with in its container.

    Raises EnvironmentFailed, ContainerEnded, NodeFolderError and OSError.
    """
    workspace = container.workspace
    if not experiment.installs(setup.container.pythonenv):
        return PythonHome(CONTAINER_PYTHON)
    own_client = studioml_of(workspace.cwd)
    if not (experiment.python_packages or experiment.pip or own_client):
        return PythonHome(CONTAINER_PYTHON)
    interpreter, has_pip = _probe(container)
    environ = container.environ
    gpus = allocation_of(environ, experiment.cpus, experiment.gpus, experiment.gpu_vendor).has_gpus
    phases = phases_of(experiment, interpreter.version, own_client, events, gpus=gpus)
    if not any(phase.lines for phase in phases):
        return PythonHome(CONTAINER_PYTHON)
    settings = installer_settings(expanded(experiment.environment, container.passed))
    cache = cache_folder(setup, environ)
    key = environment_key(interpreter, phases, settings, container.identity)
    folder = environment_folder(cache, key)
    uv = "" if has_pip else uv_here(environ) or ""
    if not has_pip and not uv:
        raise EnvironmentFailed(
            "has neither venv with pip, nor is there uv on this node to do without",
            where=f"container image {container.image}",
            remedy="add them to the image, install uv beside hpcrunner, or let 'pythonenv' be "
            "the image's",
        )

    def build_now(target: Path) -> bool:
        bound = [folder, *(_made(cache / name) for name in ("pip", "uv"))]
        binds = [bindable(str(path)) for path in bound]
        for path in filter(None, (uv, experiment.wheels)):
            binds.append(f"{bindable(path)}:{path}:ro")
        variables = workspace.runner / "variables-build"
        job = {name: v for name, v in environ.items() if SETTING.fullmatch(name)}
        tools = builder_environment({**container.passed, **job}, settings, cache)
        write_variables(variables, inside_variables(tools)[0])
        prefix = tuple(container.line(variables, binds, workspace.runner))
        try:
            return build(
                target,
                interpreter,
                phases,
                container.runtimes_environment(),
                workspace.runner / LOG_NAME,
                Inside(prefix, uv),
                experiment.wheels,
            )
        finally:
            variables.unlink(missing_ok=True)

    builder = f"{interpreter.path} of {container.image}"
    venv = cached_environment(folder, builder, build_now, events, os.path.lexists)
    start_sweep(cache, setup.environments_kept)
    return PythonHome(str(venv / "bin" / "python"), str(venv))


def _probe(container: Container) -> tuple[Interpreter, bool]:
    """The image's Python, and whether it can make environments by itself."""
    variables = container.workspace.runner / "variables-probe"
    write_variables(variables, {})
    words = [*container.line(variables), CONTAINER_PYTHON, "-I", "-S", "-c", _PROBE]
    try:
        done = subprocess.run(
            words,
            env=container.runtimes_environment(),
            cwd=container.workspace.runner,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EnvironmentFailed(
            f"its Python does not answer ({type(error).__name__})",
            where=f"container image {container.image}",
        ) from error
    finally:
        variables.unlink(missing_ok=True)
    failed = failure_of(done.returncode, done.stderr.splitlines()[-1:])
    if failed is not None:
        raise ContainerEnded(failed)
    try:
        version, real, has_pip = done.stdout.splitlines()[-3:]
    except ValueError:
        raise EnvironmentFailed(
            f"its Python does not work: {' '.join(done.stderr.split())[-300:]}",
            where=f"container image {container.image}",
        ) from None
    return Interpreter(CONTAINER_PYTHON, version, real), has_pip == "1"


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
