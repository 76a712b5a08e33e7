"""pip on the login node, with an output file, a time limit, and an end when it is told."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from hpcrunner.gateway.staging.objects import Stopped
from hpcrunner.installers import InstallerFailed, run_installer
from hpcrunner.request.requirements import SETTING
from hpcrunner.schedulers.environment import job_environment

LONGEST = 3600.0  # seconds for one command; packages may have to be compiled
_LOOK = 0.2
_ALSO = re.compile(r"SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|TMPDIR")


def installer_environment(
    ours: Mapping[str, str],
    site: Mapping[str, str],
    settings: Sequence[tuple[str, str]],
    cache: Path,
) -> dict[str, str]:
    """What packages are built with: nothing of the gateway's own secrets.

    ``ours`` is the gateway's environment, of which proxies, indexes and authorities stay; ``site``
    are the site's variables for every job, ``settings`` the request's.
    """
    result = job_environment(ours)
    result |= {k: v for k, v in ours.items() if SETTING.fullmatch(k) or _ALSO.fullmatch(k)}
    result |= {**site, **dict(settings)}
    for theirs, pips in (
        ("UV_INDEX_URL", "PIP_INDEX_URL"),
        ("UV_DEFAULT_INDEX", "PIP_INDEX_URL"),
        ("UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL"),
        ("UV_FIND_LINKS", "PIP_FIND_LINKS"),
    ):
        if theirs in result:
            result.setdefault(pips, result[theirs])
    result.update(
        PIP_CACHE_DIR=str(cache),
        PIP_NO_INPUT="1",
        PIP_DISABLE_PIP_VERSION_CHECK="1",
        UV_NO_PROGRESS="1",
        UV_PYTHON_DOWNLOADS="never",
        GIT_TERMINAL_PROMPT="0",
    )
    return result


def only_wheels(ours: Mapping[str, str], site: Mapping[str, str]) -> bool:
    """Whether nothing is to be built here: who runs the gateway has set PIP_ONLY_BINARY."""
    return {**ours, **site}.get("PIP_ONLY_BINARY") == ":all:"


def run(
    words: Sequence[str],
    environ: Mapping[str, str],
    log: Path,
    stopped: Callable[[], bool],
    *,
    longest: float = LONGEST,
) -> None:
    """Run a command in the log's folder. Raises InstallerFailed, Stopped, OSError."""
    until = time.monotonic() + longest

    def wait(process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None:
            if stopped():
                raise Stopped
            if time.monotonic() >= until:
                raise InstallerFailed(f"{Path(words[0]).name} took longer than {longest:.0f} s")
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK)

    run_installer(words, environ, log, wait)
