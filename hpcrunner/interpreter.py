"""Which Python runs a payload of a given version on this node."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcrunner.request.requirements import EnvironmentFailed

PROBE = (
    "import os,sys;"
    "print('%d.%d.%d'%sys.version_info[:3]);"
    "print(os.path.realpath(getattr(sys,'_base_executable',None) or sys.executable))"
)
_PROBE_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Interpreter:
    """An interpreter that was asked who it is. ``real`` is its path without links."""

    path: str
    version: str
    real: str


def choose_interpreter(
    version: str, interpreters: Sequence[tuple[str, str]], environ: Mapping[str, str]
) -> str:
    """The path of the Python for ``version`` ("3.11"; "", "2" and "3" ask for any).

    The site's map goes first, then ``python3.11`` on PATH, then the Python that runs us if it
    is of that version. Raises EnvironmentFailed, naming what there is.
    """
    mapped = _from_map(version, interpreters)
    if mapped is not None:
        if os.access(mapped, os.X_OK):
            return mapped
        raise EnvironmentFailed(
            "the site's interpreter is not there on this node",
            where=f"python {version}: {mapped}",
            remedy="mend 'interpreters' in the site file",
        )
    ours = getattr(sys, "_base_executable", None) or sys.executable
    wanted = tuple(version.split(".")[:2])
    if len(wanted) < 2:
        return ours
    found = shutil.which(f"python{'.'.join(wanted)}", path=environ.get("PATH"))
    asked = probe(found, environ) if found is not None else None
    # Asked, because pyenv's shims answer for another version, or not at all.
    if asked is not None and _parts(asked.version)[:2] == wanted:
        return asked.path
    if _parts(_our_version())[:2] == wanted:
        return ours
    have = sorted({*(name for name, _ in interpreters), _our_version()})
    raise EnvironmentFailed(
        f"no Python {version} on this node (there is {', '.join(have)})",
        where="request",
        remedy="ask for one of these, or add it to 'interpreters' in the site file",
    )


def probe(path: str, environ: Mapping[str, str]) -> Interpreter | None:
    """Ask an interpreter for its version and real path; None where it does not answer."""
    try:
        answer = subprocess.run(
            [path, "-I", "-S", "-c", PROBE],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_TIMEOUT,
            check=True,
        )
        version, real = answer.stdout.decode().splitlines()
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return Interpreter(path, version, real)


def _from_map(version: str, interpreters: Sequence[tuple[str, str]]) -> str | None:
    """The site's path for a version: the same, else the more general, else the newest within."""
    wanted = _parts(version)
    if not wanted:
        return None
    by_parts = {_parts(name): path for name, path in interpreters}
    for length in range(len(wanted), 0, -1):
        if wanted[:length] in by_parts:
            return by_parts[wanted[:length]]
    within = [parts for parts in by_parts if parts[: len(wanted)] == wanted]
    newest = max(
        within, key=lambda parts: [int(p) if p.isdigit() else -1 for p in parts], default=None
    )
    return None if newest is None else by_parts[newest]


def _parts(version: str) -> tuple[str, ...]:
    return tuple(part for part in version.strip().split(".") if part)


def _our_version() -> str:
    return ".".join(map(str, sys.version_info[:3]))


def uv_here(environ: Mapping[str, str]) -> str | None:
    """uv beside the Python that runs us, else on PATH."""
    beside = Path(sys.executable).with_name("uv")
    if os.access(beside, os.X_OK):
        return str(beside)
    return shutil.which("uv", path=environ.get("PATH"))
