"""The local scheduler's folder: what submitters and the daemon tell each other.

::

    lock              held (flock) by the daemon while it lives
    wake              a pipe with a name: a byte in it wakes the daemon
    daemon.log        what the daemon has to say
    jobs/<name>/      a job with tasks that wait or run; the folder is the submission's marker
        job.json      its description, there from the first moment on
        states        one JSON object a line, appended by the daemon: what became of each task
        cancel        one index a line, appended by who wants the task ended
        exits/<index> the exit code, written by the task's own shell
    ended/<name>/     the same, once all its tasks have ended
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hpcrunner.schedulers.processes import Identity
from hpcrunner.sync import sync_folder, write_synced


@dataclass(frozen=True, slots=True)
class LocalJob:
    """A job's description. ``memory`` in bytes, ``time_limit`` in seconds, 0 for none."""

    name: str
    script: str
    folder: str
    logs: str
    size: int
    cpus: int
    memory: int
    gpus: int
    time_limit: int
    submitted_at: float


def job_id(name: str, index: int, size: int) -> str:
    """``hpcr-12ab``, or ``hpcr-12ab_3`` for a task of an array."""
    return name if size == 1 else f"{name}_{index}"


@dataclass(frozen=True, slots=True)
class TaskState:
    """What is known of a task; the words are Slurm's.

    ``ending`` is the word it will end with because the daemon is ending it. ``identity`` is the
    task's shell, None where the daemon died before it could write it down.
    """

    word: str = "PENDING"
    identity: Identity | None = None
    gpus: tuple[str, ...] = ()
    ending: str = ""
    exit_code: int | None = None
    signal: int | None = None
    started_at: float | None = None
    ended_at: float | None = None


@dataclass(frozen=True, slots=True)
class Store:
    """The folder. Methods raise OSError where the file system does."""

    root: Path
    jobs: Path = field(init=False)
    ended: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "jobs", self.root / "jobs")
        object.__setattr__(self, "ended", self.root / "ended")

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def wake(self) -> Path:
        return self.root / "wake"

    @property
    def log(self) -> Path:
        return self.root / "daemon.log"

    def prepare(self) -> None:
        """Make the folders, private to the user."""
        for folder in (self.root, self.jobs, self.ended):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def add(self, job: LocalJob) -> None:
        """Take a job: all of it or nothing, and on disk. A job of that name stays as it is."""
        new = self.root / f".{job.name}-{secrets.token_hex(4)}"
        new.mkdir(mode=0o700)
        try:
            (new / "exits").mkdir(mode=0o700)
            write_synced(new / "job.json", json.dumps(asdict(job)))
            sync_folder(new)
            if self.find(job.name) is None:
                with contextlib.suppress(FileExistsError):
                    new.rename(self.jobs / job.name)
            sync_folder(self.jobs)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def find(self, name: str) -> Path | None:
        """The job's folder, wherever it is; None where there is no such job."""
        # A job moves from jobs to ended, so jobs is looked at on both sides of ended.
        for folder in (self.jobs, self.ended, self.jobs):
            try:
                (folder / name).stat()
            except FileNotFoundError:
                continue
            return folder / name
        return None

    def unfinished(self) -> list[str]:
        """The names of jobs with tasks that have not ended, in no order."""
        return [entry for entry in os.listdir(self.jobs) if not entry.startswith(".")]

    def describe(self, folder: Path) -> LocalJob:
        """The job's description. Raises ValueError where the file is damaged."""
        try:
            return LocalJob(**json.loads((folder / "job.json").read_text()))
        except TypeError as error:
            raise ValueError(f"not a job: {folder}") from error

    def states(self, folder: Path) -> dict[int, TaskState]:
        """The tasks that are no longer waiting; a torn last line is as if never written."""
        try:
            text = (folder / "states").read_text(errors="replace")
        except FileNotFoundError:
            return {}
        states: dict[int, TaskState] = {}
        for line in text.split("\n"):
            with contextlib.suppress(ValueError, TypeError, KeyError):
                event = json.loads(line)
                index = int(event.pop("task"))
                states[index] = _after(states.get(index, TaskState()), event)
        return states

    def tell(self, folder: Path, index: int, event: Mapping[str, Any], *, sync: bool) -> None:
        """Append to the states of a job."""
        # The leading break closes a line that a daemon's death has torn.
        line = "\n" + json.dumps({"task": index, **event}) + "\n"
        _append(folder / "states", line, sync=sync)

    def wish_cancel(self, folder: Path, indexes: Iterable[int]) -> None:
        """Ask for tasks to be ended."""
        _append(folder / "cancel", "".join(f"{index}\n" for index in indexes), sync=True)

    def cancel_wishes(self, folder: Path, size: int) -> set[int]:
        """The tasks that are to be ended."""
        try:
            words = (folder / "cancel").read_text(errors="replace").split()
        except FileNotFoundError:
            return set()
        return {int(word) for word in words if word.isdecimal() and 1 <= int(word) <= size}

    def exit_code(self, folder: Path, index: int) -> int | None:
        """What the task's own shell wrote down, if it came to that."""
        try:
            text = (folder / "exits" / str(index)).read_text(errors="replace").strip()
        except FileNotFoundError:
            return None
        return int(text) if text.isdecimal() else None

    def retire(self, folder: Path) -> None:
        """Put a job whose tasks have all ended aside."""
        folder.rename(self.ended / folder.name)


def _after(state: TaskState, event: dict[str, Any]) -> TaskState:
    if "identity" in event:
        raw = event.pop("identity")
        event["identity"] = Identity(**raw) if raw else None
    if "gpus" in event:
        event["gpus"] = tuple(map(str, event["gpus"]))
    return replace(state, **event)


def _append(path: Path, text: str, *, sync: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, text.encode())
        if sync:
            os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
