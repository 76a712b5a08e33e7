"""The parent's side of a process that owns a scheduler's library: calls with time-outs, and a
new process when one is lost. The other side is child_side.py.

Libraries print what they do not say otherwise. That is heard, and told with the error of the call.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
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
from hpcrunner.schedulers.overheard import Overheard, with_printed

log = logging.getLogger(__name__)

_ANSWER_LIMIT = 64 * 1024 * 1024


class ChildLost(HpcrunnerError):
    """The child died or gave no answer in time: what it was doing may have been done."""

    exit_code = 75  # EX_TEMPFAIL


class CallFailed(HpcrunnerError):
    """An exception in the child, by the name of its class; ``sent``: it may have reached the
    scheduler first. ``printed`` is what the library printed meanwhile.
    """

    exit_code = 69  # EX_UNAVAILABLE

    def __init__(
        self, kind: str, text: str, *, sent: bool, where: str = "drmaa", printed: str = ""
    ):
        what = with_printed(f"{kind}: {text}" if text else kind, printed)
        super().__init__(what, where=where)
        self.kind = kind
        self.text = text
        self.sent = sent
        self.printed = printed


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
    _overheard: Overheard | None = field(default=None, init=False, repr=False)

    def call(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """One request and its answer. Raises ChildLost (nobody knows what was done), CallFailed."""
        deadline = time.monotonic() + timeout
        channel = self._connected()
        self._printed()  # what came between two calls belongs to neither
        try:
            channel.settimeout(timeout)
            channel.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(_line(channel, deadline, self._overheard))
            if not isinstance(answer, dict):
                raise ValueError("not an object")
        except (OSError, ValueError) as error:
            late = isinstance(error, TimeoutError)
            what = f"no answer within {timeout:g} s" if late else f"lost in a call ({error})"
            printed = self._end(kindly=False)
            raise ChildLost(with_printed(what, printed), where=f"{self.name} child") from error
        except BaseException:
            # An interrupt in the middle leaves an answer that the next call must not take.
            self._end(kindly=False)
            raise
        printed = self._printed()
        if "error" in answer:
            raise CallFailed(
                str(answer["error"]),
                str(answer.get("text", "")),
                sent=bool(answer.get("sent", 1)),
                where=self.name,
                printed=printed,
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
        heard, printing = os.pipe()
        overheard = Overheard(heard)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [*self.argv, str(theirs.fileno()), *self.arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=printing,
                    env=interpreter_environment(self.environment, os.environ),
                    cwd="/",
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                overheard.close()
                raise CallFailed("OSError", str(error), sent=False, where=self.name) from error
            finally:
                os.close(printing)
        self._channel, self._overheard = ours, overheard
        return ours

    def _printed(self) -> str:
        """What the child has printed since this was last asked; the debug log has it, too."""
        printed = self._overheard.taken() if self._overheard is not None else ""
        if printed:
            log.debug("%s child printed: %s", self.name, printed)
        return printed

    def _end(self, *, kindly: bool) -> str:
        """End it, and tell what it has printed last."""
        channel, process = self._channel, self._process
        self._channel = self._process = None
        if channel is not None:
            channel.close()
        if process is None:
            return ""
        if kindly:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        printed = self._printed()
        if self._overheard is not None:
            self._overheard.close()
            self._overheard = None
        return printed


def _line(channel: socket.socket, deadline: float, overheard: Overheard | None) -> bytes:
    """One line; what is printed meanwhile is taken in, lest the child wait for it.

    Raises OSError (TimeoutError past the deadline) or ValueError.
    """
    collected = bytearray()
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    if overheard is not None and overheard.open:
        poll.register(overheard, select.POLLIN)
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        ready = {descriptor for descriptor, _ in poll.poll(left * 1000)}
        if overheard is not None and overheard.fileno() in ready:
            overheard.listen()
            if not overheard.open:
                poll.unregister(overheard)
        if channel.fileno() not in ready:
            continue
        chunk = channel.recv(65536)
        if not chunk:
            raise ConnectionError("the child closed its end")
        collected += chunk
        if collected.endswith(b"\n"):
            return bytes(collected)
        if len(collected) > _ANSWER_LIMIT:
            raise ValueError("an answer without end")
