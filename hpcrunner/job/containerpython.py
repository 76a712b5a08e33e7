"""The Python of a payload in a container: the image's, or an environment built on top of it.

Such an environment lies in the site's cache beside the others (environment.py), under a key that
changes with the image. It is built in the container, by the image's venv and pip, or where it has
none by uv, which is bound into it for that; what the image has installed is seen in it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hpcrunner.errors import one_line
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
    tools_folder,
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
from hpcrunner.sessions import run_in_session

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
        # It may write its own environment and nothing else that lasts: no lock, note or download
        # of another's, and nothing that is read or run on the node afterwards.
        target.mkdir(mode=0o700)
        lists = workspace.runner / "lists"
        lists.mkdir(mode=0o700, exist_ok=True)
        binds = [bindable(str(target))]
        for path in filter(None, (str(workspace.root), str(lists), uv, experiment.wheels)):
            binds.append(f"{bindable(path)}:{path}:ro")
        variables = workspace.runner / "variables-build"
        job = {name: v for name, v in environ.items() if SETTING.fullmatch(name)}
        tools = builder_environment({**container.passed, **job}, settings, None)
        write_variables(variables, inside_variables(tools)[0])

        def line() -> Sequence[str]:
            return container.line(variables, tools_folder(workspace), binds)

        try:
            return build(
                target,
                interpreter,
                phases,
                container.runtimes_environment(),
                workspace.runner / LOG_NAME,
                Inside(line, uv, lists),
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
    line = container.line(variables, tools_folder(container.workspace))
    try:
        done = run_in_session(
            [*line, CONTAINER_PYTHON, "-I", "-S", "-c", _PROBE],
            environ=container.runtimes_environment(),
            cwd=container.workspace.runner,
            timeout=_PROBE_TIMEOUT,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EnvironmentFailed(
            f"its Python does not answer ({type(error).__name__})",
            where=f"container image {container.image}",
        ) from error
    finally:
        variables.unlink(missing_ok=True)
    failed = failure_of(done.returncode, done.stderr.splitlines())
    if failed is not None:
        raise ContainerEnded(failed)
    try:
        version, real, has_pip = done.stdout.splitlines()[-3:]
    except ValueError:
        raise EnvironmentFailed(
            f"its Python does not work: {one_line(done.stderr)[-300:]}",
            where=f"container image {container.image}",
        ) from None
    return Interpreter(CONTAINER_PYTHON, version, real), has_pip == "1"
