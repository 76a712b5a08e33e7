"""The processes of a session (setsid(2)), ended to the last one. Linux only: read from /proc.

A process group is not enough where a container runtime is among them: what holds the image's file
system for it (squashfuse) makes a group of its own, keeps its mount, and would live on without a
parent when the runtime is killed. It stays in the session.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from hpcrunner.procfs import GONE, SESSION, STATE, stats

_ENOUGH = 1 << 16  # bytes of output
PATIENCE = 5.0  # a process in uninterruptible sleep may outlive SIGKILL


def members(session: int) -> list[int]:
    """The living processes of a session, by the number of the process that began it."""
    own = b"%d" % session
    return [pid for pid, stat in stats() if stat[SESSION] == own and stat[STATE] not in GONE]


def end_session(session: int) -> bool:
    """Kill them, also those that are forked meanwhile; returns whether all have ended.

    To be called before the process that began it is reaped, or right after: later another
    session may have that number.
    """
    until = time.monotonic() + PATIENCE
    pause = 0.001
    while left := members(session):
        if time.monotonic() >= until:
            return False
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
    return True


@contextmanager
def session(
    words: Sequence[str],
    *,
    environ: Mapping[str, str],
    cwd: Path,
    output: IO[bytes] | int,
    errors: IO[bytes] | int,
) -> Iterator[subprocess.Popen[bytes]]:
    """A command that has begun; nothing that it started outlives the block, or us.

    Raises OSError where it cannot be started.
    """
    process = subprocess.Popen(
        words,
        env=environ,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        start_new_session=True,
    )
    watchdog: Watchdog | None = None
    try:
        watchdog = Watchdog(process.pid)
        yield process
    finally:
        end_session(process.pid)
        process.wait()
        if watchdog is not None:
            watchdog.call_off()


def run_in_session(
    words: Sequence[str], *, environ: Mapping[str, str], cwd: Path, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run a command and take the end of its output; nothing that it started outlives it, or us.

    The output lies in unnamed files in ``cwd``: a pipe would be held open by what it leaves
    running. Raises OSError where it cannot be started, TimeoutExpired after ``timeout`` seconds.
    """
    with tempfile.TemporaryFile(dir=cwd) as output, tempfile.TemporaryFile(dir=cwd) as errors:
        with session(words, environ=environ, cwd=cwd, output=output, errors=errors) as process:
            process.wait(timeout)
        said = [_end_of(file) for file in (output, errors)]
    return subprocess.CompletedProcess(list(words), process.returncode, *said)


def _end_of(file: BinaryIO) -> str:
    file.seek(max(0, file.seek(0, os.SEEK_END) - _ENOUGH))
    return file.read().decode("utf-8", "replace")


class Watchdog:
    """A small process that ends a session once we are gone, unless it is called off.

    The kernel's own way, PR_SET_PDEATHSIG, tells one process alone, and is forgotten by one that
    changes its credentials, as a container's runtime does on its way into a user namespace
    (prctl(2)). With the runtime the kernel ends all that is in its PID namespace.
    """

    # The fields of proc(5)'s stat behind the command: state, parent, group, session.
    _SCRIPT = """
trap "" HUP INT TERM USR1 USR2
read -r _ && exit
left=1 rounds=0
while [ "$left" ] && [ $rounds -lt 500 ]; do
  left= rounds=$((rounds + 1))
  for stat in /proc/[0-9]*/stat; do
    read -r line < "$stat" || continue
    session=$1
    set -f; set -- "$session" ${line##*) }; set +f
    [ "$5" = "$session" ] && [ "$2" != Z ] || continue
    pid=${stat#/proc/}
    kill -KILL "${pid%/stat}" && left=1
  done 2>/dev/null
done
"""

    def __init__(self, session: int) -> None:
        read, self._write = os.pipe()
        try:
            # posix_spawn begins no session where Python was built for an old C library.
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", self._SCRIPT, "sh", str(session)],
                env={},
                stdin=read,
                start_new_session=True,
            )
        except BaseException:
            os.close(self._write)
            raise
        finally:
            os.close(read)
        self.pid = self._process.pid

    def call_off(self) -> None:
        """The session has ended: its number may soon be another's."""
        with suppress(BrokenPipeError):
            os.write(self._write, b"\n")
        os.close(self._write)
        self._process.wait()
