"""The parent's side of a process that owns a scheduler's library: calls with time-outs, and a
new process when one is lost. The other side is child_side.py.
"""

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
from hpcrunner.schedulers.interpreter import interpreter_environment

_ANSWER_LIMIT = 64 * 1024 * 1024


class ChildLost(HpcrunnerError):
    """The child died or gave no answer in time: what it was doing may have been done."""

    exit_code = 75  # EX_TEMPFAIL


class CallFailed(HpcrunnerError):
    """An exception in the child, by the name of its class; ``sent``: it may have reached the
    scheduler first.
    """

    exit_code = 69  # EX_UNAVAILABLE

    def __init__(self, kind: str, text: str, *, sent: bool, where: str = "drmaa"):
        super().__init__(f"{kind}: {text}" if text else kind, where=where)
        self.kind = kind
        self.text = text
        self.sent = sent


@dataclass(slots=True)
class Child:
    """A process that is started when it is called, and again when it was lost.

    ``argv`` is all but its first own argument, which is the number of its socket; ``arguments``
    come behind. ``environment`` is all that it is given, and with it, by some libraries, every
    job. ``name`` is for errors.
    """

    name: str
    argv: Sequence[str]
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: job_environment(os.environ))
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    _channel: socket.socket | None = field(default=None, init=False, repr=False)

    def call(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """One request and its answer. Raises ChildLost (nobody knows what was done), CallFailed."""
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
                where=f"{self.name} child",
            ) from error
        except BaseException:
            # An interrupt in the middle leaves an answer that the next call must not take.
            self._end(kindly=False)
            raise
        if "error" in answer:
            raise CallFailed(
                str(answer["error"]),
                str(answer.get("text", "")),
                sent=bool(answer.get("sent", 1)),
                where=self.name,
            )
        return answer

    def close(self) -> None:
        """End the child; jobs stay. Another call would start another."""
        self._end(kindly=True)

    def _connected(self) -> socket.socket:
        if self._channel is not None and self._process is not None:
            if self._process.poll() is None:
                return self._channel
            self._end(kindly=False)
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [*self.argv, str(theirs.fileno()), *self.arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env=interpreter_environment(self.environment, os.environ),
                    cwd="/",
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise CallFailed("OSError", str(error), sent=False, where=self.name) from error
        self._channel = ours
        return ours

    def _end(self, *, kindly: bool) -> None:
        channel, process = self._channel, self._process
        self._channel = self._process = None
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
