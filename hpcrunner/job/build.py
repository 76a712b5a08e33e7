"""Building one virtual environment, with uv where there is one, else venv and pip."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hpcrunner.interpreter import Interpreter, uv_here
from hpcrunner.request.requirements import (
    EnvironmentFailed,
    Requirements,
    readable_tail,
    says_conflict,
)

RETRY_PAUSE = 3.0
_TAIL_BYTES = 4096
_NOT_FOR_BUILDERS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX")


class BuildError(Exception):
    """An installer ended with an error; its output is in the log."""


@dataclass(frozen=True, slots=True)
class Inside:
    """A container to build in: ``prefix`` goes before each command.

    ``uv`` is its path in there, "" for the image's own venv and pip. An environment adds to what
    the image has installed.
    """

    prefix: tuple[str, ...]
    uv: str = ""


def builder_environment(
    job: Mapping[str, str], settings: Sequence[tuple[str, str]], cache: Path
) -> dict[str, str]:
    """The environment of the installers: the node's own, with the request's settings.

    Downloads are kept under the site's cache, since home folders have small quotas.
    """
    result = {name: value for name, value in job.items() if name not in _NOT_FOR_BUILDERS}
    result.setdefault("UV_CACHE_DIR", str(cache / "uv"))
    result.setdefault("PIP_CACHE_DIR", str(cache / "pip"))
    result.update(settings)
    result.update(UV_NO_PROGRESS="1", UV_PYTHON_DOWNLOADS="never", GIT_TERMINAL_PROMPT="0")
    return result


def build(
    target: Path,
    interpreter: Interpreter,
    phases: Sequence[Requirements],
    environ: Mapping[str, str],
    log: Path,
    inside: Inside | None = None,
    wheels: str = "",
) -> bool:
    """Build a virtual environment in ``target``, a folder that does not exist yet.

    ``phases`` are installed one after another, later ones winning. The installers' output goes
    to ``log``. With ``wheels`` all of it comes from that folder. Returns False where pins
    contradict each other and were installed all the same. Raises EnvironmentFailed with the log's
    last lines, and OSError.
    """
    prefix = inside.prefix if inside else ()
    uv = inside.uv if inside else uv_here(environ)
    resolved = True
    try:
        if uv:
            words = [uv, "venv", "--no-project", "--python", interpreter.path, str(target)]
        else:
            words = [interpreter.path, "-I", "-m", "venv", str(target)]
        words += ["--system-site-packages"] if inside else []
        _run([*prefix, *words], environ, log)
        for number, requirements in enumerate(phases, start=1):
            if requirements.lines:
                listed = _write_list(log.parent / f"requirements-{number}.txt", requirements)
                install = [*prefix, *_install_words(uv, target, listed, wheels)]
                resolved &= _install(install, requirements.frozen, environ, log)
    except BuildError as error:
        raise EnvironmentFailed(
            f"{error}: {' | '.join(last_lines(log))}",
            where="Python environment",
            remedy=(
                f"is all there in {wheels}? It was made for the login node's interpreter"
                if wheels
                else "can this node reach the package index, and does it have these versions?"
            ),
        ) from error
    return resolved


def last_lines(log: Path) -> tuple[str, ...]:
    """The last lines of a build's log, without the credentials of URLs."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        return readable_tail(file.read())


def _install_words(uv: str | None, target: Path, listed: Path, wheels: str) -> list[str]:
    python = str(target / "bin" / "python")
    source = ["--no-index", "--find-links", wheels] if wheels else []
    if uv:
        return [uv, "pip", "install", "--python", python, *source, "--requirement", str(listed)]
    pip = [python, "-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    return [*pip, *source, "--requirement", str(listed)]


def _install(words: list[str], frozen: bool, environ: Mapping[str, str], log: Path) -> bool:
    """Install a list; once more where that fails, without resolving where its pins conflict.

    Returns whether the list was resolved.
    """
    said_before = log.stat().st_size
    try:
        _run(words, environ, log)
    except BuildError:
        with log.open("rb") as file:
            file.seek(said_before)
            conflict = says_conflict(file.read())
        if conflict and not frozen:
            raise  # the request itself is at fault: a second try says the same
        if conflict:
            words.append("--no-deps")
        else:
            time.sleep(RETRY_PAUSE)
        _run(words, environ, log)
        return not conflict
    return True


def _run(words: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
    """Run an installer in the log's folder, where no project of the user's can steer it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    out = os.open(log, flags, 0o600)
    try:
        builder = subprocess.Popen(
            words,
            cwd=log.parent,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    except OSError as error:
        raise BuildError(f"{words[0]} cannot be started ({error.strerror})") from error
    finally:
        os.close(out)
    try:
        code = builder.wait()
    except BaseException:  # a stop broke in: no installer may live on
        with suppress(ProcessLookupError):
            os.killpg(builder.pid, signal.SIGKILL)
        builder.wait()
        raise
    if code != 0:
        raise BuildError(f"{Path(words[0]).name} ended with {code}")


def _write_list(path: Path, requirements: Requirements) -> Path:
    """The requirements as a private file: URLs may hold tokens, and argv is public."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in requirements.lines)
    return path
