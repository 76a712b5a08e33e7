"""The local scheduler's daemon: ``… local_daemon FOLDER LOCK-FD SLOTS``.

It runs waiting tasks in the order of submission within the slots, and sleeps in between. All
it knows is in the folder (local_store.py), so that another daemon can go on where one has
died: what a task is about to become is written down before it becomes it, and a task is never
started twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import selectors
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcrunner.schedulers import local_task
from hpcrunner.schedulers.local import Slots
from hpcrunner.schedulers.local_store import LocalJob, Store, TaskState, job_id
from hpcrunner.schedulers.local_task import RunningTask
from hpcrunner.schedulers.processes import send
from hpcrunner.schedulers.states import meaning

log = logging.getLogger("hpcrunner.local")

_LOOK_ANYWAY = 30.0  # s; a wake-up may be lost with a file system that has no named pipes
_BLIND = 1.0  # s between looks at adopted tasks on a kernel without pidfd


@dataclass(slots=True)
class Held:
    """A running task with what it holds and when it is to be ended."""

    index: int
    task: RunningTask
    gpus: tuple[str, ...]
    deadline: float | None
    ending: str = ""
    kill_at: float | None = None


@dataclass(slots=True)
class Job:
    """A job in the daemon's memory."""

    about: LocalJob
    folder: Path
    waiting: deque[int]
    held: dict[int, Held] = field(default_factory=dict)


class Daemon:
    """One daemon over one folder; the caller holds the folder's lock."""

    def __init__(self, store: Store, slots: Slots, environment: dict[str, str]) -> None:
        self._store = store
        self._slots = slots
        self._environment = environment
        self._jobs: dict[str, Job] = {}
        self._selector = selectors.DefaultSelector()
        self._wakes = self._open_wakes()

    def run(self) -> None:
        """Work until nothing is left and ``linger`` seconds have brought nothing new."""
        idle_since: float | None = None
        while True:
            self._take_new()
            self._take_cancels()
            self._reap()
            self._enforce()
            self._start_ready()
            self._retire()
            now = time.monotonic()
            if self._jobs:
                idle_since = None
            elif idle_since is None:
                idle_since = now
            elif now - idle_since >= self._slots.linger:
                return
            self._sleep(self._slots.linger if idle_since is not None else self._next_event())

    def _open_wakes(self) -> list[int]:
        """What ends a sleep: a byte in the named pipe, a child's end."""
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        wakes = [reader]
        try:
            with contextlib.suppress(FileExistsError):
                os.mkfifo(self._store.wake, 0o600)
            # Open for writing too, or the pipe would be readable for ever after its first writer.
            wakes.append(os.open(self._store.wake, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            log.warning("no wake-up pipe (%s): looking every %g s", error, _LOOK_ANYWAY)
        for descriptor in wakes:
            self._selector.register(descriptor, selectors.EVENT_READ)
        return wakes

    def _sleep(self, timeout: float) -> None:
        for key, _ in self._selector.select(max(timeout, 0.0)):
            if key.fd in self._wakes:
                with contextlib.suppress(BlockingIOError):
                    os.read(key.fd, 4096)

    def _next_event(self) -> float:
        times = [_LOOK_ANYWAY]
        now = time.time()
        for held in self._all_held():
            if held.kill_at is not None:
                times.append(held.kill_at - now)
            elif held.deadline is not None:
                times.append(held.deadline - now)
            if held.task.process is None and held.task.watch is None:
                times.append(_BLIND)
        return min(times)

    def _all_held(self) -> list[Held]:
        return [held for job in self._jobs.values() for held in job.held.values()]

    # --- what others ask for ------------------------------------------------------------

    def _take_new(self) -> None:
        found = []
        for name in self._store.unfinished():
            if name in self._jobs:
                continue
            folder = self._store.jobs / name
            try:
                found.append((self._store.describe(folder), folder))
            except OSError as error:
                log.error("%s: %s", name, error)
            except ValueError as error:
                log.error("%s: set aside: %s", name, error)
                self._store.retire(folder)
        for about, folder in sorted(found, key=lambda job: (job[0].submitted_at, job[0].name)):
            log.info("%s: %d task(s)", about.name, about.size)
            self._jobs[about.name] = self._recovered(about, folder)

    def _take_cancels(self) -> None:
        for job in self._jobs.values():
            for index in sorted(self._store.cancel_wishes(job.folder, job.about.size)):
                if index in job.waiting:
                    job.waiting.remove(index)
                    self._tell(job, index, word="CANCELLED", ended_at=time.time())
                elif index in job.held:
                    self._end(job, job.held[index], "CANCELLED")

    # --- a daemon's inheritance ---------------------------------------------------------

    def _recovered(self, about: LocalJob, folder: Path) -> Job:
        job = Job(about, folder, deque())
        states = self._store.states(folder)
        for index in range(1, about.size + 1):
            state = states.get(index)
            if state is None:
                job.waiting.append(index)
            elif not meaning(state.word).ended:
                self._inherit(job, index, state)
        return job

    def _inherit(self, job: Job, index: int, state: TaskState) -> None:
        name = job_id(job.about.name, index, job.about.size)
        identity = state.identity or local_task.shell_of(name)
        task = local_task.adopt(name, identity) if identity else None
        if task is not None:
            log.info("%s: adopted from an earlier daemon", name)
            job.held[index] = Held(
                index, task, state.gpus, self._deadline(job.about, state.started_at)
            )
            if task.watch is not None:
                self._selector.register(task.watch, selectors.EVENT_READ)
            if state.ending:
                self._end(job, job.held[index], state.ending)
            return
        send(local_task.leftovers(name), signal.SIGKILL)
        self._close(job, index, state.ending, None)

    # --- running tasks ------------------------------------------------------------------

    def _start_ready(self) -> None:
        for job in self._jobs.values():
            while job.waiting:
                gpus = self._room(job.about)
                if gpus is None:
                    return  # first come, first served: nobody overtakes
                self._start(job, job.waiting.popleft(), gpus)

    def _room(self, wanted: LocalJob) -> tuple[str, ...] | None:
        """The GPUs for one more task of this job, None where there is no room."""
        cpus, memory = self._slots.cpus, self._slots.memory
        gpus = list(self._slots.gpus)
        for job in self._jobs.values():
            cpus -= job.about.cpus * len(job.held)
            memory -= job.about.memory * len(job.held)
            for held in job.held.values():
                gpus = [device for device in gpus if device not in held.gpus]
        alone = not any(job.held for job in self._jobs.values())
        # A job that was taken under larger slots runs alone, rather than never.
        if not alone and (wanted.cpus > cpus or wanted.memory > memory or wanted.gpus > len(gpus)):
            return None
        return tuple(gpus[: wanted.gpus])

    def _start(self, job: Job, index: int, gpus: tuple[str, ...]) -> None:
        about = job.about
        name = job_id(about.name, index, about.size)
        now = time.time()
        # On disk before the start: whatever happens next, nobody starts this task again.
        self._tell(job, index, word="CONFIGURING", started_at=now, gpus=gpus, sync=True)
        environment = dict(self._environment)
        if self._slots.gpus:
            environment[self._slots.gpu_variable] = ",".join(gpus)
        try:
            logs = Path(about.logs)
            logs.mkdir(mode=0o700, parents=True, exist_ok=True)
            task = local_task.start(
                job_id=name,
                index=index,
                script=about.script,
                folder=about.folder,
                output=logs / f"{index}.out",
                exit_file=job.folder / "exits" / str(index),
                environment=environment,
            )
        except OSError as error:
            log.error("%s: not started (%s)", name, error)
            self._tell(job, index, word="LAUNCH_FAILED", ended_at=time.time())
            return
        identity = task.identity
        self._tell(
            job,
            index,
            word="RUNNING",
            identity={"pid": identity.pid, "born": identity.born, "boot": identity.boot},
        )
        job.held[index] = Held(index, task, gpus, self._deadline(about, now))

    def _reap(self) -> None:
        for job in self._jobs.values():
            for held in [held for held in job.held.values() if held.task.over]:
                del job.held[held.index]
                if held.task.watch is not None:
                    self._selector.unregister(held.task.watch)
                held.task.release()
                held.task.sweep()
                process = held.task.process
                self._close(job, held.index, held.ending, process.returncode if process else None)

    def _close(self, job: Job, index: int, ending: str, returncode: int | None) -> None:
        """Write down how a task ended, by the best witness there is."""
        code = self._store.exit_code(job.folder, index)
        if ending:
            outcome: dict[str, Any] = {"word": ending}
        elif code is not None:
            outcome = dict(local_task.ending(code))
        elif returncode is not None and returncode < 0:
            outcome = {"word": "FAILED", "signal": -returncode}
        else:
            # No daemon saw its end and its shell wrote nothing: a reboot, or worse.
            outcome = {"word": "NODE_FAIL"}
        self._tell(job, index, **outcome, ended_at=time.time(), sync=True)

    def _enforce(self) -> None:
        now = time.time()
        for job in self._jobs.values():
            for held in job.held.values():
                if held.kill_at is not None and now >= held.kill_at:
                    held.task.send(signal.SIGKILL)
                    held.kill_at = now + 1.0  # again, for what was born meanwhile
                elif held.kill_at is None and held.deadline is not None and now >= held.deadline:
                    self._end(job, held, "TIMEOUT")

    def _end(self, job: Job, held: Held, word: str) -> None:
        if held.kill_at is not None:
            return
        self._tell(job, held.index, ending=word)
        held.ending = word
        held.kill_at = time.time() + self._slots.kill_wait
        held.task.send(signal.SIGTERM)

    def _retire(self) -> None:
        for name, job in list(self._jobs.items()):
            if not job.waiting and not job.held:
                del self._jobs[name]
                with contextlib.suppress(OSError):  # taken up again at the next look
                    self._store.retire(job.folder)

    def _deadline(self, about: LocalJob, started_at: float | None) -> float | None:
        if not about.time_limit:
            return None
        return (started_at if started_at is not None else time.time()) + about.time_limit

    def _tell(self, job: Job, index: int, *, sync: bool = False, **event: Any) -> None:
        self._store.tell(job.folder, index, event, sync=sync)


def main(arguments: list[str]) -> int:
    """Leave the starter, then work. The lock's descriptor is held until the end."""
    folder, lock, slots = Path(arguments[0]), int(arguments[1]), json.loads(arguments[2])
    if os.fork():
        return 0
    os.set_inheritable(lock, False)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    # Only the interpreter needed it: see interpreter_environment.
    environment = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
    store = Store(folder)
    daemon = Daemon(store, Slots(**slots), environment)
    while True:
        daemon.run()
        # A job taken after the last look, by somebody who still found the lock held, is seen now.
        fcntl.flock(lock, fcntl.LOCK_UN)
        if not store.unfinished():
            return 0
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
