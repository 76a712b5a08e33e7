"""Python packages for nodes that reach no index: a wheelhouse for each list of requirements."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.experiment import Experiment
from hpcrunner.gateway.preparation import (
    READY,
    Attempt,
    Preparation,
    Standing,
    Waiting,
    failure_of,
)
from hpcrunner.gateway.staging import wheelhouse
from hpcrunner.gateway.staging.inside import Inside, interpreter_of, open_image
from hpcrunner.gateway.staging.installer import installer_environment, only_wheels
from hpcrunner.gateway.staging.layout import Layout, stem
from hpcrunner.gateway.staging.objects import Stopped
from hpcrunner.gateway.staging.wheelhouse import USED, Wanted
from hpcrunner.gateway.staging.workers import Workers
from hpcrunner.images.ready import ready_image
from hpcrunner.interpreter import Interpreter, choose_interpreter, probe
from hpcrunner.nodefolders import remove_tree
from hpcrunner.request.errors import shown
from hpcrunner.request.plan import PlannedExperiment
from hpcrunner.request.requirements import (
    PINS,
    EnvironmentFailed,
    groom,
    installer_settings,
)
from hpcrunner.sites.node_setup import host_rule, node_setup
from hpcrunner.sites.site import Site
from hpcrunner.storage.guard import check_url
from hpcrunner.usemark import touch_mark

log = logging.getLogger(__name__)

THREADS = 2  # pip takes a core each
KEPT = 7 * 86400.0  # seconds after the last use
NO_ROOM_PAUSE = 30.0
_STRAY = 3600.0
# A requirement that has no address in it, before its marker and pip's own options.
_BY_NAME = re.compile(r"[A-Za-z0-9][^:@$;]*?(?:(?:;|\s--).*)?")
_AUTHORITY = re.compile(r"://([^/\s#?;]+)")
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")  # as pip replaces it in a list
_ENDS_WITHIN = 5.0


@dataclass
class _Fetch:
    """One attempt that waits for its packages. Threads write what the loop reads."""

    attempt: Attempt
    planned: PlannedExperiment = field(repr=False)
    standing: Standing
    folder: str = ""
    stopped: bool = False
    waits: bool = False  # for its image, in which they are made


class Wheels:
    """The preparation of Python packages.

    ``images`` is that of container images: packages for a container are made in its image, once
    that is there.
    """

    def __init__(self, layout: Layout, site: Site, images: Preparation | None = None) -> None:
        self._images = images
        self._layout = layout
        self._site = site
        self._workers = Workers("staging-wheels", THREADS)
        self._fetches: dict[Attempt, _Fetch] = {}
        self._lock = threading.Lock()
        self._waiting: dict[str, list[_Fetch]] = {}  # by key: who wants what is being built
        self._pythons: dict[Inside, Interpreter] = {}

    def want(self, experiment: Experiment, planned: PlannedExperiment) -> None:
        """See Preparation."""
        attempt = (experiment.id, experiment.attempt)
        if attempt in self._fetches:
            return
        listed = bool(planned.python_packages or planned.pip)
        needs = listed and planned.installs(self._site.container.pythonenv)
        standing: Standing = Waiting("waits for its Python packages") if needs else READY
        fetch = self._fetches[attempt] = _Fetch(attempt, planned, standing)
        if needs and planned.image is not None and self._images is not None:
            fetch.waits = True
            fetch.standing = Waiting("waits for its image, and then for its Python packages")
        elif needs:
            self._workers.give(partial(self._guarded, fetch))

    def standing(self, experiment: Experiment) -> Standing | None:
        """See Preparation."""
        fetch = self._fetches.get((experiment.id, experiment.attempt))
        if fetch is None:
            return None
        if fetch.waits and self._images and self._images.standing(experiment) is READY:
            fetch.waits = False
            self._workers.give(partial(self._guarded, fetch))
        return fetch.standing

    def apply(self, experiment: Experiment, planned: PlannedExperiment) -> PlannedExperiment:
        """See Preparation."""
        fetch = self._fetches[(experiment.id, experiment.attempt)]
        return replace(planned, wheels=fetch.folder)

    def step(self, wanted: Collection[Attempt]) -> None:
        """See Preparation."""
        for attempt in [a for a in self._fetches if a not in wanted]:
            self._fetches.pop(attempt).stopped = True

    def close(self) -> None:
        """See Preparation: waits for pip to end, which takes a moment."""
        self._workers.close()
        self.step(())
        until = time.monotonic() + _ENDS_WITHIN
        while self._waiting and time.monotonic() < until:
            time.sleep(0.05)

    def _guarded(self, fetch: _Fetch) -> None:
        if fetch.stopped:
            return
        try:
            self._get(fetch)
        except HpcrunnerError as error:
            fetch.standing = failure_of(error)
        except OSError as error:
            self._again(fetch, error)
        except Exception as error:
            log.exception("%s: a fault while its packages were fetched", fetch.attempt[0])
            fetch.standing = failure_of(_failed(f"{type(error).__name__}: {error}"))

    def _get(self, fetch: _Fetch) -> None:
        wanted = self._wanted(fetch.planned)
        if not any(phase.lines for phase in wanted.phases):
            fetch.standing = READY
            return
        with self._lock:
            if wanted.key in self._waiting:
                self._waiting[wanted.key].append(fetch)
                fetch.standing = Waiting("its Python packages are being fetched")
                return
            self._waiting[wanted.key] = [fetch]
        standing: Standing | None = None
        folder = self._layout.wheels / wanted.key
        try:
            if not wheelhouse.complete(folder):
                fetch.standing = Waiting("its Python packages are being fetched")
                environ = installer_environment(
                    os.environ,
                    self._site.environment,
                    wanted.settings,
                    self._layout.wheels / ".cache",
                )
                wheelhouse.build(wanted, folder, environ, lambda: self._unwanted(wanted.key))
                log.info("Python packages: %s is complete", folder)
            standing = READY
        except Stopped:
            pass
        except HpcrunnerError as error:
            standing = failure_of(error)
        finally:
            with self._lock:
                waiting = self._waiting.pop(wanted.key)
            if standing is None:  # ended half way, by an error or since nobody wanted it
                for other in waiting:
                    if other is not fetch:
                        self._workers.give(partial(self._guarded, other))
        if standing is not None:
            for other in waiting:
                self._settle(other, folder, standing)

    def _settle(self, fetch: _Fetch, folder: Path, standing: Standing) -> None:
        if standing is READY:
            try:
                (folder / USED / stem(fetch.attempt)).touch(mode=0o600)
                os.utime(folder / PINS)
            except OSError as error:  # the others have their folder, or its trouble, all the same
                self._again(fetch, error)
                return
            fetch.folder = str(folder)
        fetch.standing = standing

    def _again(self, fetch: _Fetch, error: OSError) -> None:
        """The gateway's own disk is at fault, which is no failure of an experiment."""
        fetch.standing = Waiting(f"{self._layout.wheels}: {error.strerror or error}")
        self._workers.give_later(NO_ROOM_PAUSE, partial(self._guarded, fetch))

    def _unwanted(self, key: str) -> bool:
        with self._lock:
            waiting = list(self._waiting.get(key, ()))
        return self._workers.closed.is_set() or all(fetch.stopped for fetch in waiting)

    def _wanted(self, planned: PlannedExperiment) -> Wanted:
        """What the node would install, by the login node's view.

        Raises EnvironmentFailed, StorageError of an image, AddressRefused.
        """
        interpreter, inside = self._python_of(planned)
        gpus = planned.gpus > 0
        phases = (
            groom(planned.python_packages, interpreter.version, gpus=gpus),
            groom(planned.pip, interpreter.version, gpus=gpus),
        )
        settings = installer_settings(planned.environment)
        if only_wheels(os.environ, self._site.environment):
            # Whatever a request could choose beside names leads to code that is run here: pip
            # builds what has an address, named by a wheel of somebody's own index too.
            settings = ()
            for line in (line for phase in phases for line in phase.lines):
                if _BY_NAME.fullmatch(line):
                    continue
                raise _failed(
                    f"{shown(line, 200)} would be built here, and the site takes wheels only",
                    "name a release that its index has as a wheel",
                )
        else:
            self._check_hosts([line for phase in phases for line in phase.lines], settings)
        return Wanted(interpreter, phases, settings, inside)

    def _python_of(self, planned: PlannedExperiment) -> tuple[Interpreter, Inside | None]:
        if planned.image is not None:
            # It is there by now; but whether it is what the site demands is looked at here, too.
            node, ours = node_setup(self._site, 0), os.environ
            path = ready_image(planned.image, node, ours, lambda *_: None, mark=touch_mark)
            inside = open_image(self._site, path, ours)
            return self._python_inside(inside), inside
        interpreters = tuple(sorted(self._site.interpreters.items()))
        path = choose_interpreter(planned.python_version, interpreters, os.environ)
        interpreter = probe(path, os.environ)
        if interpreter is None:
            raise _failed(f"interpreter {path} does not run")
        return interpreter, None

    def _python_inside(self, inside: Inside) -> Interpreter:
        """Asked once of an image, since each time a container starts; a folder's may change."""
        if inside in self._pythons:
            return self._pythons[inside]
        folder = Path(tempfile.mkdtemp(dir=self._layout.wheels, prefix=".look."))
        try:
            found = interpreter_of(inside, folder, os.environ)
        finally:
            with suppress(OSError):
                remove_tree(folder)  # which follows no link that the image has left there
        if os.path.isfile(inside.image):  # noqa: PTH113
            self._pythons[inside] = found
        return found

    def _check_hosts(self, lines: Iterable[str], settings: Iterable[tuple[str, str]]) -> None:
        """By name: what pip is led to from there, and what it runs, nobody here sees.

        Raises AddressRefused.
        """
        rule = host_rule(self._site)
        known = dict(settings)
        said = [v if "://" in v or "PROXY" not in n.upper() else f"://{v}" for n, v in settings]
        said += [_VARIABLE.sub(lambda name: known.get(name[1], name[0]), line) for line in lines]
        for authority in (found for text in said for found in _AUTHORITY.findall(text)):
            # A backslash ends it for some programs, and for others it does not.
            for part in authority.split("\\"):
                check_url(rule, f"//{part.rpartition('@')[2]}")


def sweep(layout: Layout, now: float, kept: float = KEPT) -> None:
    """Remove folders that no attempt needs and that were not used for so long. Raises OSError."""
    for entry in list(os.scandir(layout.wheels)):
        folder = Path(entry.path)
        if entry.name == ".cache":
            continue
        needed = False
        with suppress(FileNotFoundError):
            for user in list(os.scandir(folder / USED)):
                if (layout.attempts / user.name).exists():
                    needed = True
                elif user.stat().st_mtime < now - _STRAY:
                    os.unlink(user.path)  # noqa: PTH108
                else:
                    needed = True
        with suppress(FileNotFoundError):
            at = folder / PINS if wheelhouse.complete(folder) else folder
            if not needed and at.stat().st_mtime < now - kept:
                shutil.rmtree(folder, ignore_errors=True)


def _failed(
    what: str, remedy: str = "mend 'interpreters' or 'staging_dir' in the site file"
) -> EnvironmentFailed:
    return EnvironmentFailed(what, where="Python packages, on the login node", remedy=remedy)
