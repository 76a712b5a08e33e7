"""The container program as the pull and the check of signatures call it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from hpcrunner.images.errors import PullFailed
from hpcrunner.request.reasons import Reason

_USUAL_PATH = "/usr/local/bin:/usr/bin:/bin"
# What decides how the network is reached, and whose `registry login` counts.
_PASSED_ON = frozenset(
    {"HOME", "USER", "LOGNAME", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR", "XDG_RUNTIME_DIR"}
    | {name for word in ("http", "https", "no", "all") for name in (f"{word}_proxy",)}
    | {name for word in ("HTTP", "HTTPS", "NO", "ALL") for name in (f"{word}_PROXY",)}
)


def program_path(runtime: str, environ: Mapping[str, str]) -> str:
    """Where the program is. Raises PullFailed."""
    found = shutil.which(runtime, path=environ.get("PATH") or _USUAL_PATH) if runtime else None
    if found is None:
        raise PullFailed(
            "is not there",
            where=f"program {runtime or 'apptainer'}",
            remedy="set container.runtime or container.program in the site file",
            reason=Reason.CONTAINER_FAILED,
        )
    return found


def variable_prefix(runtime: str) -> str:
    """What the names of the program's own variables begin with."""
    return "SINGULARITY" if "singularity" in os.path.basename(runtime) else "APPTAINER"  # noqa: PTH119


def runtime_environment(
    runtime: str, environ: Mapping[str, str], settings: Mapping[str, str]
) -> dict[str, str]:
    """The program's environment: few words of ours, and settings under the name it knows.

    Nobody's registry password is passed on from ``environ``: it would be shown to whatever
    registry a request names.
    """
    kept = {name: value for name, value in environ.items() if name in _PASSED_ON}
    prefix = variable_prefix(runtime)
    named = {f"{prefix}_{name}": value for name, value in settings.items()}
    return {**kept, "PATH": environ.get("PATH") or _USUAL_PATH, **named}


def scratch_settings(scratch: Path) -> dict[str, str]:
    """Settings that keep all it writes in a folder of ours, and out of the user's home."""
    folders = {"TMPDIR": scratch / "tmp", "CACHEDIR": scratch / "cache"}
    for folder in folders.values():
        folder.mkdir(mode=0o700, exist_ok=True)
    return {**{name: str(path) for name, path in folders.items()}, "DISABLE_CACHE": "1"}
