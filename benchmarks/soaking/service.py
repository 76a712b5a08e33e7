"""The gateway as a service manager keeps it: started again whenever it is not meant to be down."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

BUSY = 75  # EX_TEMPFAIL: another gateway has the spool
_RESTART = 1.0
_SETTLED = 5.0
_HERTZ = os.sysconf("SC_CLK_TCK")


@dataclass
class Usage:
    """Over all gateways there were: the highest resident size (MB), all their CPU (s)."""

    peak_mb: float = 0.0
    cpu: float = 0.0
    seconds: float = 0.0


class Service:
    """Keeps one gateway running; the faults go round the service manager's back.

    ``start`` starts a gateway process. Exit codes that nobody asked for are in ``exits``.
    """

    def __init__(self, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        self._start = start
        self._process: subprocess.Popen[bytes] | None = None
        self._others: list[subprocess.Popen[bytes]] = []
        self._wanted = False
        self._closed = False
        self._lock = threading.Lock()
        self._cpu: dict[int, float] = {}
        self._peak = 0.0
        self._up = 0.0
        self.exits: Counter[int] = Counter()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def up(self) -> None:
        """Start it, and from now on keep it up."""
        with self._lock:
            self._wanted = True
            self._process = self._start()
        if not self._thread.is_alive():
            self._thread.start()

    def kill(self) -> None:
        """SIGKILL, and stay down until ``up``."""
        self._down(signal.SIGKILL)

    def term(self, patience: float = 120.0) -> int:
        """SIGTERM, wait for its end, and stay down until ``up``; returns the exit code."""
        return self._down(signal.SIGTERM, patience)

    def twins(self) -> None:
        """Start two at once. One of them has to find the other in its way."""
        with self._lock:
            self._wanted = True
            self._process, other = self._start(), self._start()
        # Whichever the lock went to is the service's from here on.
        while self._process.poll() is None and other.poll() is None:
            time.sleep(0.05)
        with self._lock:
            if self._process.poll() is not None:
                self._process, other = other, self._process
            self._others.append(other)
        if other.returncode != BUSY:
            self.exits[other.returncode] += 1

    def close(self) -> int:
        """The last SIGTERM; returns the exit code."""
        time.sleep(_SETTLED)  # one that has just been started cannot know the signal yet
        code = self.term()
        self._closed = True
        return code

    def abandon(self) -> None:
        """Kill it, and start no other: the soak was broken off."""
        self._closed = True
        self.kill()

    @property
    def usage(self) -> Usage:
        return Usage(self._peak, sum(self._cpu.values()), self._up)

    def _down(self, number: signal.Signals, patience: float = 20.0) -> int:
        with self._lock:
            self._wanted = False
            process = self._process
        if process is None:
            return 0
        self._measure(process)
        with suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            return process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return -999

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._closed:
            time.sleep(_RESTART)
            now = time.monotonic()
            with self._lock:
                process, wanted = self._process, self._wanted
                if process is None:
                    continue
                if process.poll() is None:
                    self._measure(process)
                    self._up += now - before
                elif wanted and not self._closed:
                    # Also a command line tool has the spool's lock for a moment.
                    if process.returncode != BUSY:
                        self.exits[process.returncode] += 1
                    self._process = self._start()
            before = now

    def _measure(self, process: subprocess.Popen[bytes]) -> None:
        with suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            # utime, stime, and those of the children it has waited for (proc(5)).
            self._cpu[process.pid] = sum(map(int, fields[11:15])) / _HERTZ
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    self._peak = max(self._peak, int(line.split()[1]) / 1024)
