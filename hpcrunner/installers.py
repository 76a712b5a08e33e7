"""Running an installer (uv, pip, venv): its output in a log, and none outlives who started it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from hpcrunner.request.installer_words import essence, readable_tail, says_conflict
from hpcrunner.sessions import session

_TAIL_BYTES = 64 * 1024
_MOST_PRINTED = 1024 * 1024


class InstallerFailed(Exception):
    """An installer ended with an error, of which one line tells the essential; its output is in
    the log. ``conflict``: its list's pins contradict each other.
    """

    def __init__(self, what: str, printed: bytes = b"") -> None:
        why = essence(printed)
        super().__init__(f"{what}: {why}" if why else what)
        self.conflict = says_conflict(printed)


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
    printed_before = os.fstat(out).st_size
    try:
        with session(words, environ=environ, cwd=log.parent, output=out, errors=out) as process:
            wait(process)
    finally:
        os.close(out)
    if process.returncode != 0:
        what = f"{Path(words[0]).name} ended with {process.returncode}"
        raise InstallerFailed(what, _end_of(log, _MOST_PRINTED, printed_before))


def last_lines(log: Path) -> tuple[str, ...]:
    """The last lines of a log, without the credentials of URLs. Raises OSError."""
    return readable_tail(_end_of(log, _TAIL_BYTES))


def _end_of(log: Path, most: int, since: int = 0) -> bytes:
    with log.open("rb") as file:
        file.seek(max(since, log.stat().st_size - most))
        return file.read()


def write_list(path: Path, lines: Iterable[str]) -> Path:
    """A requirements file, private: URLs may hold tokens, and argv is public. Raises OSError."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
    return path
