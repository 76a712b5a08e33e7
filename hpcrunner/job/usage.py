"""``_metrics``: what the payload uses of CPUs, memory and GPUs, a line now and then.

The lines have the form of the Python worker's (studioml 0.0.44), but tell of the payload and not
of the whole machine::

    time: 1700000000.0 CPU: 87.5 mem: 123456789 gpu 0 util: 93 %, mem 1048576

``time`` is epoch seconds, ``CPU`` percent of the job's CPUs since the line before, ``mem`` bytes
resident (what processes share counts for each), and then each GPU of the job with its use and its
bytes. The last line is written once the payload has ended or is to end, without the GPUs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcrunner.job.allocation import Allocation, allocation_of
from hpcrunner.job.process import descendants
from hpcrunner.job.workspace import Workspace
from hpcrunner.procfs import CPU_TIMES, RESIDENT, stat_of
from hpcrunner.request.plan import PlannedExperiment

METRICS = "_metrics"
LEAST_INTERVAL = 5.0  # a look at a node's whole /proc is not for nothing
_FIRST = 1.0
_MIB = 1 << 20
_SMI_PATIENCE = 20.0
_CLOSING = 1.0
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds used so far, and bytes resident now."""

    cpu: float
    memory: int


class Metrics:
    """Writes the lines while a payload runs, on a thread of its own; a fault ends only that."""

    def __init__(
        self,
        file: Path,
        interval: float,
        cpus: int,
        gpus: Callable[[], str],
        look: Callable[[], Usage],
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """``look`` tells the usage, ``gpus`` the part of a line that tells of the GPUs."""
        self._file = file
        self._interval = max(interval, LEAST_INTERVAL)
        self._cpus = max(1, cpus)
        self._gpus = gpus
        self._look = look
        self._clock = clock
        self._steady = steady
        self._at = steady()
        self._used = look().cpu
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin; the first line comes soon, so that short payloads have one too."""
        self._thread.start()

    def close(self) -> None:
        """Write the last line, unless the thread is stuck in a question to the GPUs' driver."""
        if self._thread.ident is None:
            return  # it was never begun
        self._done.set()
        self._thread.join(_CLOSING)
        if not self._thread.is_alive():
            self._write("")

    def _run(self) -> None:
        pause = min(_FIRST, self._interval)
        while not self._done.wait(pause):
            if not self._write(self._gpus()):
                return
            pause = self._interval

    def _write(self, gpus: str) -> bool:
        """Append a line; False where that cannot be done."""
        try:
            now, usage = self._steady(), self._look()
            share = max(0.0, usage.cpu - self._used) / max(now - self._at, 1e-3) / self._cpus
            self._at, self._used = now, max(usage.cpu, self._used)
            percent = round(100 * share, 1)
            line = f"time: {self._clock()} CPU: {percent} mem: {usage.memory} {gpus} \n"
            _append(self._file, line.encode())
        except OSError:
            return False
        return True


def _append(path: Path, line: bytes) -> None:
    """Add to a file in a folder that is the payload's too: it may have made links of both, or a
    pipe, which are not followed or waited for. Raises OSError.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(path.name, flags | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)
    finally:
        os.close(folder)


def metrics_of(
    experiment: PlannedExperiment, workspace: Workspace, environ: Mapping[str, str]
) -> Metrics | None:
    """The lines of an attempt; None where its request has no mutable ``_metrics`` artifact.

    The file is named as its folder, so that clients read it back as a file.
    """
    if not any(a.tag == METRICS and a.mutable for a in experiment.artifacts):
        return None
    allocation = allocation_of(environ, experiment.cpus, experiment.gpus, experiment.gpu_vendor)
    return Metrics(
        workspace.tag(METRICS) / METRICS,
        experiment.metrics_interval,
        allocation.cpus,
        gpu_summary(allocation, environ),
        tree_usage,
    )


def tree_usage() -> Usage:
    """The usage of this process's children, living and reaped, and of all below them."""
    reaped = os.times()
    cpu, memory = reaped.children_user + reaped.children_system, 0
    for pid in descendants(os.getpid()):
        stat = stat_of(pid)
        if stat is None:
            continue  # it ended meanwhile
        cpu += sum(map(int, stat[CPU_TIMES])) / _TICKS
        memory += int(stat[RESIDENT]) * _PAGE
    return Usage(cpu, memory)


def gpu_summary(
    allocation: Allocation, environ: Mapping[str, str], program: str = "nvidia-smi"
) -> Callable[[], str]:
    """What tells of the job's GPUs; it tells nothing where there are none, or no driver."""
    found = shutil.which(program, path=environ.get("PATH"))
    if found is None or not allocation.devices or allocation.vendor != "nvidia":
        return str
    words = [
        found,
        "--query-gpu=index,utilization.gpu,memory.used",
        "--format=csv,noheader,nounits",
        f"--id={','.join(allocation.devices)}",
    ]

    def summary() -> str:
        try:
            answer = subprocess.run(
                words,
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SMI_PATIENCE,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return ""
        return gpu_words(answer.stdout.decode("ascii", "replace").splitlines())

    return summary


def gpu_words(lines: Sequence[str]) -> str:
    """The rows of nvidia-smi (index, percent, MiB) as a line of ours has them."""
    words = []
    for line in lines:
        index, _, rest = line.partition(",")
        use, _, memory = rest.partition(",")
        if not (index.strip().isdecimal() and memory.strip().isdecimal()):
            continue  # what a card does not know is told as [N/A]
        words.append(f"gpu {index.strip()} util: {use.strip()} %, mem {int(memory) * _MIB}")
    return " ".join(words)
