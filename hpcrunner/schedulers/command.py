"""Run one command: no shell, bounded in time and in output, with an environment given."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hpcrunner.errors import HpcrunnerError

STDOUT_LIMIT = 64 * 1024 * 1024
STDERR_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that came to its end by itself. ``stderr`` is cut at STDERR_LIMIT bytes."""

    stdout: str
    stderr: str
    returncode: int


class CommandFailed(HpcrunnerError):
    """The command gave no answer.

    ``started`` is False where it never ran; True where it ran out of time or of room, so that
    what it did by then is unknown.
    """

    exit_code = 69  # EX_UNAVAILABLE

    def __init__(self, what: str, *, where: str, remedy: str = "", started: bool):
        super().__init__(what, where=where, remedy=remedy)
        self.started = started


class Runner(Protocol):
    """What runs commands; tests put their own in its place."""

    def __call__(
        self, argv: Sequence[str], *, timeout: float, environment: Mapping[str, str]
    ) -> Completed:
        """Run to the end. Raises CommandFailed where there is no end within ``timeout`` s."""
        ...


def run(argv: Sequence[str], *, timeout: float, environment: Mapping[str, str]) -> Completed:
    """Run ``argv`` with /dev/null as its input, in ``/`` and in its own process group.

    The group is killed at the time-out. Output is decoded as UTF-8 with replacements: what
    other jobs of the user are called must not break a query. Raises CommandFailed.
    """
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            cwd="/",
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise CommandFailed(
            f"cannot be run ({getattr(error, 'strerror', None) or error})",
            where=argv[0],
            remedy="is it on the PATH?",
            started=False,
        ) from error
    try:
        stdout, stderr = _drain(process, argv[0], timeout)
    finally:
        if process.returncode is None:
            # The group, not the process alone: a wrapper script's children must not live on.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    return Completed(
        stdout.decode("utf-8", "replace"), stderr.decode("utf-8", "replace"), process.returncode
    )


def _drain(process: subprocess.Popen[bytes], name: str, timeout: float) -> tuple[bytes, bytes]:
    """Both outputs, once both are closed and the process has ended."""
    deadline = time.monotonic() + timeout
    stdout, stderr = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for pipe, sink in ((process.stdout, stdout), (process.stderr, stderr)):
            if pipe is not None:
                selector.register(pipe.fileno(), selectors.EVENT_READ, sink)
        while selector.get_map():
            ready = selector.select(max(deadline - time.monotonic(), 0))
            if not ready:
                raise _timed_out(name, timeout)
            for key, _ in ready:
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fd)
                elif key.data is stdout:
                    stdout += chunk
                    if len(stdout) > STDOUT_LIMIT:
                        what = f"more than {STDOUT_LIMIT >> 20} MiB of output"
                        raise CommandFailed(what, where=name, started=True)
                else:
                    stderr += chunk[: max(STDERR_LIMIT - len(stderr), 0)]
    try:
        process.wait(max(deadline - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired as error:
        raise _timed_out(name, timeout) from error
    return bytes(stdout), bytes(stderr)


def _timed_out(name: str, timeout: float) -> CommandFailed:
    return CommandFailed(
        f"no answer within {timeout:g} s",
        where=name,
        remedy="is the scheduler up?",
        started=True,
    )
