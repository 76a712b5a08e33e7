"""Packages for a payload in a container are made in its image, by the image's own Python.

On the login node, with the site's container program. The image sees a folder of ours and nothing
else of this machine, as at a build on a node; what steers pip travels in the environment, since
argv is public.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hpcrunner.errors import one_line
from hpcrunner.images.errors import PullFailed
from hpcrunner.images.runtime import program_path, runtime_environment, variable_prefix
from hpcrunner.images.runtimefault import runtime_fault
from hpcrunner.interpreter import PROBE, Interpreter, uv_here
from hpcrunner.request.reasons import Reason
from hpcrunner.request.requirements import SETTING, EnvironmentFailed
from hpcrunner.sessions import run_in_session
from hpcrunner.sites.site import Site

PYTHON = "python3"
_PROBE_TIMEOUT = 600.0  # the image may come from a slow file system, for the first time
_REMEDIES = {
    Reason.CONTAINER_FAILED: "may containers run on this host?",
    Reason.PAYLOAD_NOT_STARTED: f"name one with {PYTHON}, or let 'pythonenv' be 'image'",
}
_WHERE_TO = frozenset({"PIP_CACHE_DIR", "UV_CACHE_DIR"})


@dataclass(frozen=True, slots=True)
class Inside:
    """An image to make packages in. ``identity`` changes with its content."""

    program: str
    image: str
    identity: str
    userns: bool = False
    uv: str = ""

    def line(self, folder: Path, lists: Path | None = None) -> list[str]:
        """What goes before a command. ``folder`` is seen at its own path and is HOME, ``lists`` is
        seen and cannot be written.

        Whatever the image may write can be full of links by then: nothing else of ours is there.
        """
        binds = ["--bind", str(folder)]
        binds += ["--bind", f"{lists}:{lists}:ro"] if lists else []
        binds += ["--bind", f"{self.uv}:{self.uv}:ro"] if self.uv else []
        return [
            *(self.program, "--quiet", "exec"),
            *("--containall", "--cleanenv", "--no-mount", "hostfs,bind-paths", "--no-eval"),
            *(("--userns",) if self.userns else ()),
            *("--home", str(folder), *binds, "--pwd", str(folder)),
            self.image,
        ]

    def environment(
        self, ours: Mapping[str, str], tools: Mapping[str, str], tmp: Path
    ) -> dict[str, str]:
        """The program's environment. In the image are pip's settings of ``tools``, and no cache:
        what an image leaves in one would be installed for others.
        """
        inside = {k: v for k, v in tools.items() if SETTING.fullmatch(k) and k not in _WHERE_TO}
        inside |= {"PIP_NO_CACHE_DIR": "1", "UV_NO_CACHE": "1", "TMPDIR": str(tmp)}
        inside |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "GIT_TERMINAL_PROMPT": "0"}
        prefix = variable_prefix(self.program)
        named = {f"{prefix}ENV_{name}": value for name, value in inside.items()}
        return {**runtime_environment(self.program, ours, {}), **named}


def open_image(site: Site, image: str, environ: Mapping[str, str]) -> Inside:
    """An image file or folder as packages are made in it. Raises PullFailed, OSError."""
    container = site.container
    found = os.stat(image)  # noqa: PTH116
    return Inside(
        program=program_path(container.program or container.runtime, environ),
        image=image,
        identity=f"{os.path.realpath(image)}:{found.st_size}:{found.st_mtime_ns}",
        userns=container.userns,
        uv=uv_here(environ) or "",
    )


def interpreter_of(inside: Inside, folder: Path, environ: Mapping[str, str]) -> Interpreter:
    """The image's Python; ``folder`` is a private one. Raises EnvironmentFailed, PullFailed."""
    where = f"container image {inside.image}"
    try:
        done = run_in_session(
            [*inside.line(folder), PYTHON, "-I", "-S", "-c", PROBE],
            environ=inside.environment(environ, {}, folder),
            cwd=folder,
            timeout=_PROBE_TIMEOUT,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EnvironmentFailed(
            f"its Python does not answer on the login node ({type(error).__name__})", where=where
        ) from error
    fault = runtime_fault(done.returncode, done.stderr.splitlines())
    if fault is not None:
        raise PullFailed(
            f"{fault.text} (on the login node, where its packages are made)",
            where=where,
            remedy=_REMEDIES.get(fault.reason, ""),
            reason=fault.reason,
        )
    try:
        version, real = done.stdout.splitlines()[-2:]
    except ValueError:
        raise EnvironmentFailed(
            f"its Python does not work: {one_line(done.stderr)[-300:]}", where=where
        ) from None
    return Interpreter(PYTHON, version, real)
