"""The ``local`` backend: jobs on this machine, run by a daemon that outlives whoever submits.

There is no server to set up. Whoever submits, or looks up a job that has not ended, makes sure
that the daemon (local_daemon.py) runs; it ends when nothing is left to do.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hpcrunner.batch.batch import NAME_PREFIX, Batch
from hpcrunner.schedulers.contract import (
    Job,
    JobState,
    SchedulerUnavailable,
    Sighting,
    Sought,
    Submission,
    SubmitRefused,
    SubmitUncertain,
    Verdict,
)
from hpcrunner.schedulers.environment import job_environment
from hpcrunner.schedulers.interpreter import interpreter_environment, module_argv
from hpcrunner.schedulers.local_store import LocalJob, Store, TaskState, job_id
from hpcrunner.schedulers.sightings import NOT_FOUND, UNAVAILABLE
from hpcrunner.schedulers.states import meaning

log = logging.getLogger(__name__)

_DAEMON = "hpcrunner.schedulers.local_daemon"
_START_TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class Slots:
    """What the daemon hands out: CPUs, bytes of memory, GPUs one by one.

    A task finds its GPUs in ``gpu_variable``, by the words that ``gpus`` has for them.
    ``kill_wait`` is the time (s) between SIGTERM and SIGKILL, as in slurm.conf; after ``linger``
    seconds with nothing to do the daemon ends.
    """

    cpus: int
    memory: int
    gpus: tuple[str, ...] = ()
    gpu_variable: str = "CUDA_VISIBLE_DEVICES"
    kill_wait: float = 30.0
    linger: float = 5.0


@dataclass(slots=True)
class LocalScheduler:
    """Run jobs here. ``folder`` is private to the user and on a disk of this machine's choice."""

    folder: Path
    slots: Slots
    environment: Mapping[str, str] = field(default_factory=lambda: job_environment(os.environ))
    clock: Callable[[], float] = time.time
    name: str = field(default="local", init=False)

    @property
    def _store(self) -> Store:
        return Store(self.folder)

    def submit(self, batch: Batch) -> Submission:
        """See Scheduler.submit. A batch that is known already is not submitted twice."""
        job = self._job(batch)
        store = self._store
        try:
            store.prepare()
            store.add(job)
        except OSError as error:
            self._doubt(batch, error)
        self._ensure_daemon()
        return _submission(batch)

    def seek(self, batches: Sequence[Batch], since: float) -> Mapping[str, Sought]:
        """See Scheduler.seek: the job's folder is the marker."""
        return {batch.id: self._sought(batch) for batch in batches}

    def _sought(self, batch: Batch) -> Sought:
        try:
            found = self._store.find(batch.name)
        except OSError as error:
            log.warning("local scheduler: %s", error)
            return Sought(Verdict.UNAVAILABLE)
        if found is None:
            return Sought(Verdict.NOT_FOUND)
        return Sought(Verdict.FOUND, _submission(batch))

    def look_up(self, jobs: Sequence[Job], since: float) -> Mapping[Job, Sighting]:
        """See Scheduler.look_up. An id here holds the name."""
        tasks: dict[str, list[tuple[Job, int]]] = {}
        for asked in jobs:
            name, index = _parts(asked.id)
            tasks.setdefault(name, []).append((asked, index))
        seen: dict[Job, Sighting] = {}
        for name, members in tasks.items():
            seen.update(self._sightings(name, members))
        if any(s.verdict is Verdict.FOUND and s.state is not JobState.ENDED for s in seen.values()):
            self._ensure_daemon()
        return seen

    def cancel(self, jobs: Sequence[Job]) -> None:
        """See Scheduler.cancel."""
        wishes: dict[str, list[int]] = {}
        for name, index in (_parts(job.id) for job in jobs):
            wishes.setdefault(name, []).append(index)
        store = self._store
        try:
            for name, indexes in wishes.items():
                folder = store.find(name) if _ours(name) else None
                if folder is not None and folder.parent == store.jobs:
                    with contextlib.suppress(FileNotFoundError):  # it ended just now
                        store.wish_cancel(folder, indexes)
        except OSError as error:
            raise SchedulerUnavailable(
                f"cannot write a cancel ({error.strerror})", where=str(self.folder)
            ) from error
        if wishes:
            self._ensure_daemon()

    def close(self) -> None:
        """Nothing is held; the daemon ends by itself."""

    def _job(self, batch: Batch) -> LocalJob:
        spec, slots = batch.spec, self.slots
        for what, wanted, there in (
            ("CPUs", spec.cpus, slots.cpus),
            ("bytes of memory", spec.memory, slots.memory),
            ("GPUs", spec.gpus, len(slots.gpus)),
        ):
            if wanted > there:
                raise SubmitRefused(
                    f"{wanted} {what} asked for, {there} to hand out",
                    where="local scheduler",
                    remedy="ask for less, or raise the key local of the site's file",
                )
        return LocalJob(
            name=batch.name,
            script=str(batch.script),
            folder=str(batch.folder),
            logs=str(batch.logs),
            size=batch.size,
            cpus=spec.cpus,
            memory=spec.memory,
            gpus=spec.gpus,
            time_limit=spec.time_limit,
            submitted_at=self.clock(),
        )

    def _doubt(self, batch: Batch, error: OSError) -> None:
        """A write failed: was the job taken by then?"""
        sought = self._sought(batch)
        if sought.verdict is Verdict.NOT_FOUND:
            raise SubmitRefused(
                f"cannot be written down ({error.strerror})",
                where=str(self.folder),
                remedy="make room, or mend the folder; it will be tried again",
                passing=True,
            ) from error
        raise SubmitUncertain(
            f"writing it down failed ({error.strerror})",
            where=str(self.folder),
            remedy="the batch is looked up by its name",
        ) from error

    def _sightings(self, name: str, members: list[tuple[Job, int]]) -> dict[Job, Sighting]:
        if not _ours(name):
            return {asked: UNAVAILABLE for asked, _ in members}
        store = self._store
        for _ in range(2):  # a job that ends between find and states has moved
            try:
                folder = store.find(name)
                if folder is None:
                    return {asked: NOT_FOUND for asked, _ in members}
                states = store.states(folder)
                # Of a job that was set aside every task should have had its say.
                unsaid = TaskState("PENDING" if folder.parent == store.jobs else "NODE_FAIL")
                if folder.is_dir():
                    return {asked: _sighting(states.get(index, unsaid)) for asked, index in members}
            except OSError as error:
                log.warning("local scheduler: %s", error)
                break
        return {asked: UNAVAILABLE for asked, _ in members}

    def _ensure_daemon(self) -> None:
        """Wake the daemon, or start one where none lives. A failure shows at the next look-up."""
        store = self._store
        try:
            with store.lock.open("ab") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    _poke(store.wake)
                    return
                # The daemon inherits the locked file itself, so there is no moment without it.
                self._start_daemon(lock.fileno())
        except (OSError, subprocess.TimeoutExpired) as error:
            log.warning("local scheduler: cannot start the daemon (%s)", error)

    def _start_daemon(self, lock: int) -> None:
        slots = json.dumps(asdict(self.slots))
        with self._store.log.open("ab") as output:
            starter = subprocess.Popen(
                module_argv(_DAEMON, str(self.folder), str(lock), slots),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=interpreter_environment(self.environment, os.environ),
                cwd="/",
                pass_fds=(lock,),
                start_new_session=True,
            )
        code = starter.wait(_START_TIMEOUT)  # it leaves the daemon behind, a child of nobody
        if code != 0:
            log.warning("local scheduler: the daemon did not start, see %s", self._store.log)


def _sighting(state: TaskState) -> Sighting:
    said = meaning(state.word)
    return Sighting(
        verdict=Verdict.FOUND,
        state=said.state,
        word=state.word,
        reason=said.reason,
        exit_code=state.exit_code,
        signal=state.signal,
        node=socket.gethostname() if state.started_at is not None else "",
        pending="Resources" if said.state is JobState.QUEUED else "",
        started_at=state.started_at,
        ended_at=state.ended_at,
        # The daemon's own book is all the accounting there is here, and it is final.
        accounted=said.ended,
    )


def _submission(batch: Batch) -> Submission:
    return Submission(
        tuple(job_id(batch.name, index, batch.size) for index in range(1, batch.size + 1))
    )


def _parts(asked: str) -> tuple[str, int]:
    """A job id's name and index; the job that is no array has one task, 1."""
    name, _, index = asked.partition("_")
    return name, int(index) if index.isdecimal() else 1


def _ours(name: str) -> bool:
    """Whether a name is one that this scheduler gave; it becomes a path."""
    return name.startswith(NAME_PREFIX) and name.removeprefix(NAME_PREFIX).isalnum()


def _poke(wake: Path) -> None:
    with contextlib.suppress(OSError):  # no reader: the daemon is on its way, and looks by itself
        descriptor = os.open(wake, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(descriptor, b".")
        finally:
            os.close(descriptor)
