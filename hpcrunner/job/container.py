"""A payload's container: its exec line filled in, its variables in a file, its failures told apart.

The words come from batch/container.py. What goes in of the job's environment are the scheduler's
variables, the devices, and those that the site names; the host's PATH, home and libraries mean
nothing inside. The variables travel in a private file of shell assignments, which the runtime
evaluates itself: every value stands in single quotes, so that nothing in it is evaluated.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hpcrunner.errors import HpcrunnerError
from hpcrunner.images.runtimefault import runtime_fault
from hpcrunner.job.ending import Ending
from hpcrunner.job.events import Events
from hpcrunner.job.payload import PayloadNotStarted, PythonHome
from hpcrunner.job.process import MOUNTERS
from hpcrunner.job.workspace import Workspace
from hpcrunner.nodefolders import NodeFolderError
from hpcrunner.request.plan import ContainerSetup, NodeSetup, PlannedExperiment
from hpcrunner.request.reasons import Reason
from hpcrunner.request.scheduler_words import PREFIXES, words_of

# Of the job's variables, besides the scheduler's.
_PASSED = re.compile(
    r"(PMI|PMIX|STUDIOML)_.*|(CUDA|NVIDIA|ROCR|HIP|ZE)_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL"
    r"|ZE_AFFINITY_MASK|CUDA_DEVICE_ORDER|(OMP|MKL|OPENBLAS|GOTO)_NUM_THREADS"
)
# The runtime would take these for orders to itself.
_RUNTIMES_OWN = re.compile(r"(APPTAINER|SINGULARITY).*")
# Of these the runtime, or the shell by which it reads the file, has values of its own.
_NOT_BY_FILE = frozenset(
    {"HOME", "PWD", "OLDPWD", "UID", "EUID", "GID", "PPID", "IFS", "OPTIND", "PREPEND_PATH"}
    | {"APPEND_PATH"}
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
# A colon or a comma in a path would be read as the end of it.
_UNBINDABLE = re.compile(r'[:,"\\\x00-\x1f\x7f]')
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_HOST_PATH = "%PATH%"
_NVIDIA, _DEVICES = "--nv", "NVIDIA_VISIBLE_DEVICES"


class ContainerFailed(HpcrunnerError):
    """This node cannot run containers as the site file says."""

    exit_code = 69  # EX_UNAVAILABLE
    reason = Reason.CONTAINER_FAILED


class ContainerEnded(HpcrunnerError):
    """A container ended before it did what it was started for; ``reason`` says whose fault."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.text)
        self.reason = ending.reason


@dataclass(frozen=True, slots=True)
class Seen:
    """Folders of ours that a container sees: those that it may write.

    ``home`` is HOME in it, ``cwd`` the folder that it starts in, ``tmp`` has its /tmp; ``over`` is
    a bind that comes after the site's own.
    """

    home: Path
    cwd: Path
    tmp: Path
    over: str


def _payloads(workspace: Workspace) -> Seen:
    """What a payload sees: its experiment's folder, in a STUDIOML_HOME of the container's own.

    Nothing above that folder is bound, for whoever may write there can lay links in the way of
    what we write on the node.
    """
    home = workspace.runner / "inside"
    (home / "tmp").mkdir(mode=0o700, parents=True, exist_ok=True)
    place = home / workspace.root.relative_to(workspace.home)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    over = f"{home}:{workspace.home}"
    return Seen(workspace.root, workspace.cwd, workspace.runner, over)


def tools_folder(workspace: Workspace) -> Seen:
    """What a program of an image sees that is no payload: a folder of its own, made now.

    A new one each time: the runtime makes folders to mount on in the container's /tmp, and would
    follow links that an earlier program has left there.
    """
    tmp = Path(tempfile.mkdtemp(prefix="tool-", dir=workspace.runner))
    home = tmp / "home"
    home.mkdir(mode=0o700)
    return Seen(home, home, tmp, str(home))


@dataclass(frozen=True, slots=True)
class Container:
    """The container of one attempt. ``identity`` changes with the image's content."""

    words: tuple[str, ...]
    image: str
    identity: str
    setup: ContainerSetup
    workspace: Workspace
    environ: Mapping[str, str]

    @property
    def passed(self) -> dict[str, str]:
        """What of the job's environment is seen inside."""
        names = words_of(self.environ).variables | set(self.setup.environment)
        return {
            name: value
            for name, value in self.environ.items()
            if name in names or name.startswith(PREFIXES) or _PASSED.fullmatch(name)
        }

    @property
    def tmp(self) -> str:
        """TMPDIR inside: short, since paths of sockets must be."""
        return "/tmp" if self.setup.isolation else str(self.workspace.tmp)  # noqa: S108

    def runtimes_environment(self) -> dict[str, str]:
        """The environment of the runtime itself, without orders that were meant for others."""
        kept = {k: v for k, v in self.environ.items() if not _RUNTIMES_OWN.fullmatch(k)}
        path = kept.get("PATH") or os.defpath
        wrappers = shield_mounters(self.workspace.runner / "bin", path)
        return {**kept, "TMPDIR": str(self.workspace.tmp), "PATH": f"{wrappers}{path}"}

    def line(self, environment: Path, seen: Seen, binds: Sequence[str] = ()) -> list[str]:
        """The exec line up to the payload's own words, with the variables of that file."""
        folders = {
            "@STUDIOML_HOME@": seen.over,
            "@ROOT@": str(seen.home),
            "@WORKSPACE@": str(seen.cwd),
            "@TMP@": str(seen.tmp),
            "@ENVIRONMENT@": str(environment),
            "@IMAGE@": self.image,
        }
        line: list[str] = []
        for word in self.words:
            if word == "@BINDS@":
                line += [part for bind in binds for part in ("--bind", bind)]
            elif word in folders:
                line.append(folders[word])
            elif line and line[-1] == "--bind":
                line.append(self._bind(word))
            else:
                line.append(word)
        return line

    def start(
        self, command: Sequence[str], inside: Mapping[str, str], python: PythonHome, events: Events
    ) -> tuple[list[str], dict[str, str]]:
        """Words and environment to start the payload with; its variables are in the file now.

        Raises PayloadNotStarted for a variable that no file can hold, NodeFolderError and OSError.
        """
        variables, left_out = inside_variables(inside, python.venv)
        for name in left_out:
            events.tell("left_out", f"config.env may not set {name} in a container: left as it is")
        write_variables(self.file, variables)
        binds = [str(self.workspace.root)]
        binds += [f"{bindable(python.venv)}:{python.venv}:ro"] if python.venv else []
        line = self.line(self.file, _payloads(self.workspace), binds)
        environment = self.runtimes_environment()
        if _NVIDIA in self.words:
            # Read by the runtime itself where it leaves the devices to nvidia-container-cli, by
            # its settings or --nvccli: isolated containers would get none without.
            environment[_DEVICES] = inside.get(_DEVICES) or "all"
        return [*line, *command], environment

    @property
    def file(self) -> Path:
        """Where the payload's variables lie while it runs."""
        return self.workspace.runner / "variables"

    def close(self) -> None:
        """Take the payload's variables off the disk."""
        self.file.unlink(missing_ok=True)

    def _bind(self, bind: str) -> str:
        def value(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            found = self.environ.get(name, "")
            if (not found.startswith("/") and match.start() == 0) or _UNBINDABLE.search(found):
                raise NodeFolderError(
                    f"${name} is not a path that can be bound on this node",
                    where=f"container.binds {bind}",
                    remedy="name a folder that exists on the nodes",
                )
            return found

        return _VARIABLE.sub(value, bind)


def open_container(
    experiment: PlannedExperiment,
    setup: NodeSetup,
    workspace: Workspace,
    environ: Mapping[str, str],
    events: Events,
) -> Container | None:
    """The container of an experiment with its image, None where it runs without one.

    Raises ContainerFailed where the node has no such runtime, StorageError where it cannot have
    the image, NodeFolderError and OSError.
    """
    if not experiment.exec_words:
        return None
    from hpcrunner.images.ready import ready_image

    program = experiment.exec_words[0]
    if shutil.which(program, path=environ.get("PATH")) is None:
        raise ContainerFailed(
            "is not on this node",
            where=f"container runtime {program}",
            remedy="load its module ('modules'), or name it as container.program in the site file",
        )
    bindable(str(workspace.root))
    if experiment.image is None:
        return _planned_before(experiment.exec_words, setup, workspace, environ)
    image = ready_image(experiment.image, setup, environ, events.tell)
    return Container(
        experiment.exec_words,
        image,
        identity_of(image),
        setup.container,
        workspace,
        environ,
    )


def _planned_before(
    words: Sequence[str], setup: NodeSetup, workspace: Workspace, environ: Mapping[str, str]
) -> Container:
    """That of a plan from before images were planned: PROGRAM exec OPTIONS… IMAGE.

    The runtime finds the image itself, and has the variables by file as it has now.
    """
    folders = {"@ROOT@": str(workspace.root), "@WORKSPACE@": str(workspace.cwd)}
    there = [re.sub("@(?:ROOT|WORKSPACE)@", lambda m: folders[m[0]], word) for word in words]
    line = (*there[:2], "--no-eval", "--env-file", "@ENVIRONMENT@", *there[2:])
    own = replace(setup.container, isolation=False)
    return Container(line, there[-1], "", own, workspace, environ)


def identity_of(image: str) -> str:
    """What changes when the image does."""
    found = os.stat(image)  # noqa: PTH116
    return f"{os.path.realpath(image)}:{found.st_size}:{found.st_mtime_ns}"


def inside_variables(
    inside: Mapping[str, str], venv: str = ""
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The variables for the file, and the names that cannot be set in it.

    PATH is the image's own. A PATH with ``%PATH%`` in it adds to that on either side; the virtual
    environment's programs come first.
    """
    variables, left_out = {}, []
    for name, value in inside.items():
        if not _NAME.fullmatch(name) or name in _NOT_BY_FILE or _RUNTIMES_OWN.fullmatch(name):
            left_out.append(name)
        elif name != "PATH":
            variables[name] = value
    path, first = inside.get("PATH", ""), [f"{venv}/bin"] if venv else []
    if venv:
        variables["VIRTUAL_ENV"] = venv
    before, mark, after = path.partition(_HOST_PATH)
    if path and not mark:
        variables["PATH"] = ":".join([*first, path])
    else:
        front, back = ":".join(filter(None, [*first, before.strip(":")])), after.strip(":")
        variables |= {n: v for n, v in (("PREPEND_PATH", front), ("APPEND_PATH", back)) if v}
    return variables, tuple(left_out)


def write_variables(path: Path, variables: Mapping[str, str]) -> None:
    """Write them as shell assignments, for this user alone.

    Raises PayloadNotStarted for a value that is no text of a file, OSError.
    """
    lines = []
    for name, value in variables.items():
        # Not \', of which Apptainer 1.4 leaves the backslash in the value.
        quoted = value.replace("'", "'\"'\"'")
        lines.append(f"{name}='{quoted}'\n")
    try:
        content = "".join(lines).encode("utf-8", "surrogateescape")
        if b"\0" in content:
            raise ValueError
    except ValueError as error:
        raise PayloadNotStarted(
            "holds a value that no environment can hold", where="config.env"
        ) from error
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)


def shield_mounters(folder: Path, path: str) -> str:
    """Keep the programs that hold an image from ending at a SIGTERM to the whole job.

    A scheduler's goes to all of its processes, and a payload that saves itself then still needs
    the image's files. Wrappers that ignore the signal (they hand that on) are laid into the folder;
    returns what goes before ``path``. A runtime that brings such programs of its own, or is
    installed setuid, does not look there.
    """
    laid = False
    for name in MOUNTERS:
        wrapper, found = folder / name, shutil.which(name, path=path)
        if found is not None and not wrapper.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
            wrapper.write_text(f"#!/bin/sh\ntrap '' TERM\nexec {shlex.quote(found)} \"$@\"\n")
            wrapper.chmod(0o700)
        laid |= os.access(wrapper, os.X_OK)  # not where the scratch forbids it
    return f"{folder}{os.pathsep}" if laid else ""


def bindable(path: str) -> str:
    """The path, where a bind can name it. Raises NodeFolderError."""
    if _UNBINDABLE.search(path):
        raise NodeFolderError(
            "holds a character that no bind of a container can",
            where=path,
            remedy="name a 'scratch' and 'cache' without ':', ',', '\"' and '\\' in the site file",
        )
    return path


def as_signal(code: int) -> int:
    """The runtime ends with 128+n where the payload was ended by signal n: as the payload's own."""
    return 128 - code if 128 < code <= 128 + 31 else code


def failure_of(code: int, last: Sequence[str]) -> Ending | None:
    """The ending where the runtime itself failed, and never came to the payload; else None."""
    fault = runtime_fault(code, last)
    return Ending(fault.reason, fault.text, code) if fault else None
