"""Building one virtual environment, with uv where there is one, else venv and pip."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcrunner.installers import InstallerFailed, run_installer, write_list
from hpcrunner.interpreter import Interpreter, uv_here
from hpcrunner.request.requirements import EnvironmentFailed, Requirements

RETRY_PAUSE = 3.0
_NOT_FOR_BUILDERS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX")


@dataclass(frozen=True, slots=True)
class Inside:
    """A container to build in: what ``line`` gives goes before a command, anew for each.

    ``uv`` is its path in there, "" for the image's own venv and pip. ``lists`` is a folder that it
    sees and cannot write. An environment adds to what the image has installed.
    """

    line: Callable[[], Sequence[str]]
    uv: str
    lists: Path


def builder_environment(
    job: Mapping[str, str], settings: Sequence[tuple[str, str]], cache: Path | None
) -> dict[str, str]:
    """The environment of the installers: the node's own, with the request's settings.

    Downloads are kept under the site's cache, since home folders have small quotas; without one
    they are not kept at all.
    """
    result = {name: value for name, value in job.items() if name not in _NOT_FOR_BUILDERS}
    if cache is not None:
        result.setdefault("UV_CACHE_DIR", str(cache / "uv"))
        result.setdefault("PIP_CACHE_DIR", str(cache / "pip"))
    result.update(settings)
    if cache is None:
        for name in ("UV_CACHE_DIR", "PIP_CACHE_DIR"):
            result.pop(name, None)
        result.update(UV_NO_CACHE="1", PIP_NO_CACHE_DIR="1", UV_LINK_MODE="copy")
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
    """Build a virtual environment in ``target``, a folder that is empty or not there yet.

    ``phases`` are installed one after another, later ones winning. The installers' output goes
    to ``log``. With ``wheels`` all of it comes from that folder. Returns False where pins
    contradict each other and were installed all the same. Raises EnvironmentFailed with the
    essential of what the installer printed, and OSError.
    """
    line = inside.line if inside else tuple
    uv = inside.uv if inside else uv_here(environ)
    lists = inside.lists if inside else log.parent
    resolved = True
    try:
        if uv:
            words = [uv, "venv", "--no-project", "--python", interpreter.path, str(target)]
        else:
            words = [interpreter.path, "-I", "-m", "venv", str(target)]
        words += ["--system-site-packages"] if inside else []
        _run([*line(), *words], environ, log)
        for number, requirements in enumerate(phases, start=1):
            if requirements.lines:
                listed = write_list(lists / f"requirements-{number}.txt", requirements.lines)
                install = _install_words(uv, target, listed, wheels)
                resolved &= _install(line, install, requirements.frozen, environ, log)
    except InstallerFailed as error:
        raise EnvironmentFailed(
            str(error),
            where="Python environment",
            remedy=(
                f"is all there in {wheels}? It was made for the login node's interpreter"
                if wheels
                else "can this node reach the package index, and does it have these versions?"
            ),
        ) from error
    return resolved


def _install_words(uv: str | None, target: Path, listed: Path, wheels: str) -> list[str]:
    python = str(target / "bin" / "python")
    source = ["--no-index", "--find-links", wheels] if wheels else []
    if uv:
        return [uv, "pip", "install", "--python", python, *source, "--requirement", str(listed)]
    pip = [python, "-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    return [*pip, *source, "--requirement", str(listed)]


def _install(
    line: Callable[[], Sequence[str]],
    words: list[str],
    frozen: bool,
    environ: Mapping[str, str],
    log: Path,
) -> bool:
    """Install a list; once more where that fails, without resolving where its pins conflict.

    Returns whether the list was resolved.
    """
    try:
        _run([*line(), *words], environ, log)
    except InstallerFailed as error:
        if error.conflict and not frozen:
            raise  # the request itself is at fault: a second try says the same
        if error.conflict:
            words.append("--no-deps")
        else:
            time.sleep(RETRY_PAUSE)
        _run([*line(), *words], environ, log)
        return not error.conflict
    return True


def _run(words: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
    try:
        run_installer(words, environ, log)
    except OSError as error:
        raise InstallerFailed(f"{words[0]} cannot be started ({error.strerror})") from error
