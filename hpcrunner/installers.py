"""Running an installer (uv, pip, venv): its output in a log, and none outlives who started it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from hpcrunner.request.requirements import readable_tail

_TAIL_BYTES = 4096


class InstallerFailed(Exception):
    """An installer ended with an error; its output is in the log."""


def run_installer(
    words: Sequence[str],
    environ: Mapping[str, str],
    log: Path,
    wait: Callable[[subprocess.Popen[bytes]], object] = subprocess.Popen.wait,
) -> None:
    """Run a command in the log's folder, where no project of the user's can steer it.

    ``wait`` returns when it has ended; whatever it raises ends the command with all that it
    started. Raises InstallerFailed, and OSError where it cannot be started.
    """
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
            words,
            cwd=log.parent,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    finally:
        os.close(out)
    try:
        wait(process)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode != 0:
        raise InstallerFailed(f"{Path(words[0]).name} ended with {process.returncode}")


def last_lines(log: Path) -> tuple[str, ...]:
    """The last lines of a log, without the credentials of URLs. Raises OSError."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        return readable_tail(file.read())


def write_list(path: Path, lines: Iterable[str]) -> Path:
    """A requirements file, private: URLs may hold tokens, and argv is public. Raises OSError."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
    return path
