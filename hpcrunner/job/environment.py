"""The payload's Python environment, cached by content and built once when many ask at once.

Under the site's cache folder::

    environments/<key>/lock          see sharedlock.py
    environments/<key>/<builder>/    a virtual environment, built in place (it cannot be moved)
    environments/<key>/current       names the folder that is complete; written last, by rename
    environments/<key>/failed        what the last failed build said
    environments/<key>/used          see cache.py

Each build has a folder of its own, so two builders can waste work, never spoil it; jobs that run
keep the folder they started with.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from hpcrunner.crashpoint import crashpoint
from hpcrunner.interpreter import Interpreter, choose_interpreter, probe
from hpcrunner.job.allocation import allocation_of
from hpcrunner.job.build import build, builder_environment
from hpcrunner.job.cache import USED, start_sweep
from hpcrunner.job.events import Events
from hpcrunner.job.limits import duration
from hpcrunner.job.packages import write_packages
from hpcrunner.job.payload import PythonHome, expanded
from hpcrunner.job.workspace import Workspace
from hpcrunner.nodefolders import expand, private_folder, remove_tree
from hpcrunner.request.plan import NodeSetup, PlannedExperiment
from hpcrunner.request.requirements import (
    PINS,
    EnvironmentFailed,
    Requirements,
    groom,
    installer_settings,
    with_pins,
)
from hpcrunner.sharedlock import try_lock
from hpcrunner.sync import replace_synced
from hpcrunner.usemark import mark_used
from hpcrunner.wrecks import clear_wrecks, name_for

LOG_NAME = "environment.log"
_LAYOUT = 1  # part of the key: raised when an environment is built in another way
_LONGEST_PAUSE = 2.0
Build = Callable[[Path], None]


def prepare_python(
    experiment: PlannedExperiment,
    setup: NodeSetup,
    workspace: Workspace,
    environ: Mapping[str, str],
    events: Events,
) -> PythonHome:
    """The Python to run the payload with; the build's log and lists go to the runner's folder.

    Raises EnvironmentFailed, NodeFolderError and OSError.
    """
    path = choose_interpreter(experiment.python_version, setup.interpreters, environ)
    own_client = studioml_of(workspace.cwd)
    if not (experiment.python_packages or experiment.pip or own_client):
        return PythonHome(path)
    interpreter = probe(path, environ)
    if interpreter is None:
        raise EnvironmentFailed(
            "does not run",
            where=f"interpreter {path}",
            remedy="mend 'interpreters' in the site file, or the PATH of the jobs",
        )
    gpus = allocation_of(environ, experiment.cpus, experiment.gpus, experiment.gpu_vendor).has_gpus
    phases = phases_of(experiment, interpreter.version, own_client, events, gpus=gpus)
    if not any(phase.lines for phase in phases):
        return PythonHome(path)
    settings = installer_settings(expanded(experiment.environment, environ))
    cache = cache_folder(setup, environ)

    def build_now(target: Path) -> bool:
        log, wheels = workspace.runner / LOG_NAME, experiment.wheels
        # Installers that are killed leave what they had in there, and /tmp outlives the job.
        temporary = workspace.runner / "build"
        temporary.mkdir(mode=0o700)
        try:
            tools = builder_environment(environ, settings, cache) | {"TMPDIR": str(temporary)}
            resolved = build(target, interpreter, phases, tools, log, wheels=wheels)
            write_packages(target)
            return resolved
        finally:
            with suppress(OSError):
                remove_tree(temporary)

    folder = environment_folder(cache, environment_key(interpreter, phases, settings))
    venv = cached_environment(folder, interpreter.path, build_now, events)
    start_sweep(cache, setup.environments_kept)
    return PythonHome(str(venv / "bin" / "python"), str(venv))


def phases_of(
    experiment: PlannedExperiment, version: str, own_client: str, events: Events, *, gpus: bool
) -> tuple[Requirements, ...]:
    """What is installed, one list after the other, for a Python of that version.

    Raises EnvironmentFailed.
    """
    phases = (
        groom(experiment.python_packages, version, gpus=gpus, studioml=own_client),
        groom(experiment.pip, version, gpus=gpus),
    )
    for phase in phases:
        for line, why in phase.left_out:
            events.tell("left_out", f"requirement left out: {line}: {why}")
        for line, instead in phase.changed:
            events.tell("changed", f"requirement changed: {line} is installed as {instead}")
    if experiment.wheels:
        pins = _pins_in(Path(experiment.wheels))
        return tuple(with_pins(phase, pins) for phase in phases)
    return phases


def _pins_in(folder: Path) -> dict[str, str]:
    """What stands for lines that name a source, in a folder of packages; see PINS.

    Raises EnvironmentFailed.
    """
    try:
        return {str(k): str(v) for k, v in json.loads((folder / PINS).read_text("utf-8")).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise EnvironmentFailed(
            f"the Python packages cannot be read ({error})",
            where=str(folder),
            remedy="is the staging folder on a file system that this node sees?",
        ) from None


def cache_folder(setup: NodeSetup, environ: Mapping[str, str]) -> Path:
    """The site's cache on this node. Raises NodeFolderError and OSError."""
    cache = expand(setup.cache, environ, what="cache")
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    return cache


def environment_folder(cache: Path, key: str) -> Path:
    """The folder of an environment, there already or made now."""
    return private_folder(private_folder(cache / "environments") / key)


def cached_environment(
    folder: Path,
    builder: str,
    build_now: Callable[[Path], bool],
    events: Events,
    there: Callable[[Path], bool] = Path.exists,
) -> Path:
    """The environment of a folder, in use from now on; ``build_now`` builds it where it is not.

    ``there`` looks whether its interpreter is. Raises EnvironmentFailed and OSError.
    """
    name = folder.name[:12]

    def build_here(target: Path) -> None:
        began = time.monotonic()
        events.tell("building", f"environment {name}: building with {builder}")
        resolved = build_now(target)
        text = f"environment {name}: built in {duration(time.monotonic() - began)}"
        if not resolved:
            text += "; its pins contradict each other, so no dependencies were added to them"
        events.tell("built", text)

    mark_used(folder / USED)  # before it is looked for: see cache.py
    return Cached(folder, there).get(build_here, events)


def studioml_of(code: Path) -> str:
    """The requirement line for the newest ``dist/studioml-*.tar.gz`` of the code, "" for none.

    Those who work on the client library send their own build of it so.
    """
    found = [path for path in code.glob("dist/studioml-*.tar.gz") if path.is_file()]
    if not found:
        return ""
    newest = max(found, key=lambda path: ([int(n) for n in re.findall(r"\d+", path.name)], path))
    digest = hashlib.sha256(newest.read_bytes()).hexdigest()
    return f"studioml @ {newest.absolute().as_uri()}#sha256={digest}"


def environment_key(
    interpreter: Interpreter,
    phases: tuple[Requirements, ...],
    settings: tuple[tuple[str, str], ...],
    image: str = "",
) -> str:
    """The name of an environment: the same for all requests that would build the same.

    ``image`` is the identity of the container image it is for.
    """
    content = [
        _LAYOUT,
        interpreter.real,
        interpreter.version,
        [phase.canonical for phase in phases],
        settings,
        *([image] if image else ()),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


class Cached:
    """One key's folder."""

    def __init__(self, folder: Path, there: Callable[[Path], bool] = Path.exists) -> None:
        self._folder = folder
        self._there = there
        self._current = folder / "current"
        self._failed = folder / "failed"

    def get(self, build_here: Build, events: Events) -> Path:
        """The complete environment: there already, built by another job meanwhile, or by us."""
        failed_before = _identity(self._failed)
        pause, waiting = 0.1, False
        while True:
            if (ready := self._ready()) is not None:
                return ready
            if _identity(self._failed) not in (None, failed_before):
                # Another job failed at it while we waited: one verdict serves all who waited.
                raise EnvironmentFailed(self._failed.read_text("utf-8"))
            with try_lock(self._folder / "lock") as taken:
                if taken:
                    return self._ready() or self._build(build_here)
            if not waiting:
                events.tell("waiting", "environment: another job is building it")
                waiting = True
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def _ready(self) -> Path | None:
        name = self._built()
        venv = self._folder / name
        # The link in there leads to the interpreter, which may have been updated away.
        return venv if name and self._there(venv / "bin" / "python") else None

    def _built(self) -> str:
        """The name of the environment that was built last; "" for none."""
        try:
            return self._current.read_text("ascii")
        except (OSError, ValueError):
            return ""

    def _build(self, build_here: Build) -> Path:
        # What is current may serve other nodes, though its interpreter is not there on this one.
        clear_wrecks(self._folder, time.time(), but=self._built())
        target = self._folder / name_for(f"{time.time_ns():x}")
        try:
            build_here(target)
        except BaseException as error:
            with suppress(OSError):
                remove_tree(target)
            if isinstance(error, EnvironmentFailed):
                replace_synced(self._failed, error.line())
            raise
        crashpoint("job.environment_built")
        replace_synced(self._current, target.name)
        return target


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
