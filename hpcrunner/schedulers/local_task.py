"""One running task of the local scheduler: started, watched, ended with all its processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hpcrunner.schedulers import processes
from hpcrunner.schedulers.processes import Identity

# The shell outlives the daemon, so the exit code is written down whatever becomes of that. It
# must outlive signals to the whole group too; a trap, unlike ignoring, is not inherited.
_SHELL = (
    'trap : HUP INT TERM USR1 USR2; "$1"; code=$?; echo "$code" > "$2.new" && mv -f "$2.new" "$2"'
)
_MARK = "HPCRUNNER_JOB_ID"
_SIGNALLED = 128  # a shell's exit code for "ended by signal N" is 128 + N


@dataclass(slots=True)
class RunningTask:
    """A task's shell: our child, or one adopted from a daemon that died.

    ``watch`` is a pidfd of an adopted one, None where the kernel has none or it is our child.
    """

    job_id: str
    identity: Identity
    process: subprocess.Popen[bytes] | None = None
    watch: int | None = None

    @property
    def over(self) -> bool:
        """Whether the shell has ended."""
        if self.process is not None:
            return self.process.poll() is not None
        return not processes.alive(self.identity)

    def send(self, signum: signal.Signals) -> None:
        """Signal all processes of the task."""
        processes.send(self._members(), signum)

    def sweep(self) -> None:
        """Kill what the task has left behind."""
        # Twice: a process may have been born between the list and the kill.
        for _ in range(2):
            processes.send(self._members(), signal.SIGKILL)

    def release(self) -> None:
        """Let go of the watch."""
        if self.watch is not None:
            os.close(self.watch)
            self.watch = None

    def _members(self) -> list[int]:
        return processes.members(self.identity.pid, f"{_MARK}={self.job_id}")


def start(
    *,
    job_id: str,
    index: int,
    script: str,
    folder: str,
    output: Path,
    exit_file: Path,
    environment: Mapping[str, str],
) -> RunningTask:
    """Start a task. Raises OSError where there is no script to run or no place for its output."""
    if not os.access(script, os.X_OK):
        raise PermissionError(f"cannot execute {script}")
    with output.open("ab") as sink:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _SHELL, "hpcrunner-task", script, str(exit_file)],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env={**environment, _MARK: job_id, "HPCRUNNER_TASK_ID": str(index)},
            cwd=folder,
            start_new_session=True,
        )
    # Our child: until it is waited for, its id cannot be another's.
    identity = processes.identify(process.pid) or Identity(process.pid, 0, processes.boot_id())
    return RunningTask(job_id, identity, process)


def adopt(job_id: str, identity: Identity) -> RunningTask | None:
    """A task of an earlier daemon; None where its shell has gone."""
    watch = None
    with contextlib.suppress(OSError, AttributeError):  # no pidfd before Linux 5.3
        watch = os.pidfd_open(identity.pid)
    if processes.alive(identity):
        return RunningTask(job_id, identity, watch=watch)
    if watch is not None:
        os.close(watch)
    return None


def leftovers(job_id: str) -> list[int]:
    """The processes of a task whose shell is unknown."""
    return processes.members(-1, f"{_MARK}={job_id}")


def shell_of(job_id: str) -> Identity | None:
    """The shell of a task that was started but never written down as running."""
    for pid in leftovers(job_id):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(pid) == pid:
                return processes.identify(pid)
    return None


def ending(code: int) -> dict[str, object]:
    """What a shell's exit code says: word, exit code, signal."""
    if _SIGNALLED < code <= _SIGNALLED + 64:
        return {"word": "FAILED", "signal": code - _SIGNALLED}
    return {"word": "FAILED" if code else "COMPLETED", "exit_code": code}
