"""The parent's side of the DRMAA child: calls with time-outs, and a new child when one is lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpcrunner.errors import HpcrunnerError
from hpcrunner.schedulers.environment import job_environment
from hpcrunner.schedulers.interpreter import interpreter_environment, module_argv

_CHILD = "hpcrunner.schedulers.drmaa_child"
_ANSWER_LIMIT = 64 * 1024 * 1024
# The library remembers every job of its session; a new child now and then forgets them.
_TASKS_A_CHILD = 100_000


class ChildLost(HpcrunnerError):
    """The child died or gave no answer in time: what it was doing may have been done."""

    exit_code = 75  # EX_TEMPFAIL


class DrmaaRefusal(HpcrunnerError):
    """A DRMAA exception, by the name of its class; ``sent``: it may have reached the DRM first."""

    exit_code = 69  # EX_UNAVAILABLE

    def __init__(self, kind: str, text: str, *, sent: bool):
        super().__init__(f"{kind}: {text}" if text else kind, where="drmaa")
        self.kind = kind
        self.text = text
        self.sent = sent


@dataclass(frozen=True, slots=True)
class Hello:
    """What a library says of itself: ``drms`` is "SLURM 22.05.8", or "SLURM" if it is away."""

    drms: str
    implementation: str
    version: str
    contact: str


@dataclass(slots=True)
class DrmaaSession:
    """A DRMAA library in a child process.

    ``library`` is the path of ``libdrmaa.so``, empty for the system's. ``environment`` is all
    that the child is given, and with it every job.
    """

    library: str = ""
    environment: Mapping[str, str] = field(default_factory=lambda: job_environment(os.environ))
    argv: Sequence[str] | None = None  # another child than the real one, for tests
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    _channel: socket.socket | None = field(default=None, init=False, repr=False)
    _tasks: int = field(default=0, init=False, repr=False)

    def hello(self, timeout: float) -> Hello:
        """Load the library and open its session. Raises ChildLost, DrmaaRefusal."""
        answer = self._call({"call": "hello"}, timeout)
        try:
            return Hello(**answer)
        except TypeError as error:
            raise ChildLost("an answer of another form", where="drmaa child") from error

    def submit(
        self,
        *,
        name: str,
        script: str,
        folder: str,
        output: str,
        native: str,
        size: int,
        timeout: float,
    ) -> list[str]:
        """Run ``script`` as a job, or as an array 1 to ``size``; the ids as the library says them.

        The texts are in the words of the library's DRM (batch/drmaa.py). Raises ChildLost (nobody
        knows whether it was submitted) and DrmaaRefusal.
        """
        if self._tasks >= _TASKS_A_CHILD:
            self.close()
        self._tasks += size
        job = {"name": name, "script": script, "folder": folder, "output": output}
        answer = self._call({"call": "submit", **job, "native": native, "size": size}, timeout)
        ids = answer.get("ids")
        if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
            raise ChildLost("an answer of another form", where="drmaa child")
        return ids

    def close(self) -> None:
        """End the child; jobs stay."""
        self._end(kindly=True)

    def _call(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        channel = self._connected()
        try:
            channel.settimeout(timeout)
            channel.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(_line(channel, deadline))
            if not isinstance(answer, dict):
                raise ValueError("not an object")
        except (OSError, ValueError) as error:
            late = isinstance(error, TimeoutError)
            self._end(kindly=False)
            raise ChildLost(
                f"no answer within {timeout:g} s" if late else f"lost in a call ({error})",
                where="drmaa child",
            ) from error
        except BaseException:
            # An interrupt in the middle leaves an answer that the next call must not take.
            self._end(kindly=False)
            raise
        if "error" in answer:
            raise DrmaaRefusal(
                str(answer["error"]), str(answer.get("text", "")), sent=bool(answer.get("sent", 1))
            )
        return answer

    def _connected(self) -> socket.socket:
        if self._channel is not None and self._process is not None:
            if self._process.poll() is None:
                return self._channel
            self._end(kindly=False)
        ours, theirs = socket.socketpair()
        with theirs:
            argv = list(self.argv) if self.argv is not None else module_argv(_CHILD)
            try:
                self._process = subprocess.Popen(
                    [*argv, str(theirs.fileno()), *([self.library] if self.library else [])],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env=interpreter_environment(self.environment, os.environ),
                    cwd="/",
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise DrmaaRefusal("OSError", str(error), sent=False) from error
        self._channel = ours
        self._tasks = 0
        return ours

    def _end(self, *, kindly: bool) -> None:
        channel, process = self._channel, self._process
        self._channel = self._process = None
        self._tasks = 0
        if channel is not None:
            channel.close()
        if process is None:
            return
        if kindly:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _line(channel: socket.socket, deadline: float) -> bytes:
    """One line. Raises OSError (TimeoutError past the deadline) or ValueError."""
    collected = bytearray()
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        channel.settimeout(left)
        chunk = channel.recv(65536)
        if not chunk:
            raise ConnectionError("the child closed its end")
        collected += chunk
        if collected.endswith(b"\n"):
            return bytes(collected)
        if len(collected) > _ANSWER_LIMIT:
            raise ValueError("an answer without end")
