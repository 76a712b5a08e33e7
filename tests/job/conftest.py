"""The job side as the batch script starts it: a real process on real folders."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.job.build import builder_environment
from hpcrunner.request.location import Location
from hpcrunner.request.plan import (
    LOGS,
    PLAN_NAME,
    NodeSetup,
    Plan,
    PlannedArtifact,
    PlannedExperiment,
)
from hpcrunner.request.record import Record, record_from_json

PATIENCE = 150.0
# The job side, but that it looks as often as told whether somebody wants it to stop.
LOOKS_OFTEN = """
import runpy, sys
from hpcrunner.job import stopwatch
stopwatch.LOOK_EVERY = float(sys.argv.pop(1))
runpy.run_module("hpcrunner.job", run_name="__main__")
"""


def tar_of(files: dict[str, str | bytes]) -> bytes:
    """A plain tar with these members, as the client makes them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@dataclass
class Node:
    """A batch folder, a file store and a scratch folder; runs the job side on them."""

    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    look_every: float = 0.0  # seconds between two looks at wishes to stop; 0: as users have it

    @property
    def batch(self) -> Path:
        return self.folder / "batch"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    @property
    def home(self) -> Path:
        """STUDIOML_HOME of task 1."""
        return self.scratch / f"hpcrunner-{os.getuid()}" / "b0b0-1"

    def location(self, name: str) -> Location:
        return Location("file", str(self.store / name))

    def put(self, name: str, files: dict[str, str | bytes]) -> Location:
        """Store an archive."""
        (self.store / name).parent.mkdir(parents=True, exist_ok=True)
        (self.store / name).write_bytes(tar_of(files))
        return self.location(name)

    def members(self, name: str) -> dict[str, bytes]:
        """What a saved archive holds, files only."""
        with tarfile.open(self.store / name) as tar:
            return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]

    def artifact(self, tag: str, mutable: bool = True, **more: Any) -> PlannedArtifact:
        more.setdefault("location", self.location(f"{tag}.tar"))
        return PlannedArtifact(tag=tag, mutable=mutable, unpack=True, **more)

    def script(self, text: str, *args: str, **more: Any) -> PlannedExperiment:
        """An experiment that runs this Python text, with output and modeldir to save."""
        return self.experiment({"train.py": text}, args=args, **more)

    def experiment(self, files: dict[str, str | bytes], **more: Any) -> PlannedExperiment:
        workspace = PlannedArtifact("workspace", self.put("workspace.tar", files), False, True)
        usual = {
            "id": "0123456789ab",
            "key": "k",
            "name": "k-1",
            "attempt": 1,
            "filename": "train.py",
            "args": (),
            "artifacts": (workspace, self.artifact("output"), self.artifact("modeldir")),
        }
        return PlannedExperiment(**{**usual, **more})

    def write(self, *experiments: PlannedExperiment, **setup: Any) -> None:
        """Write the batch as the gateway does."""
        usual = {"scratch": str(self.scratch), "cache": str(self.folder / "cache")}
        plan = Plan("b0b0", NodeSetup(**{**usual, **setup}), experiments)
        (self.batch / LOGS).mkdir(parents=True, exist_ok=True)
        (self.batch / PLAN_NAME).write_text(plan.to_json())

    def start(self, index: int = 1, **environ: str) -> subprocess.Popen[bytes]:
        """Start the job side of a task; its output goes to the task's log."""
        program = ["-c", LOOKS_OFTEN, str(self.look_every)]
        if not self.look_every:
            program = ["-m", "hpcrunner.job"]
        words = [sys.executable, "-I", *program, str(self.batch), str(index)]
        return self._start(words, index, environ)

    def start_by_script(self, prologue: str) -> subprocess.Popen[bytes]:
        """Start it as a batch script does, after some lines of bash."""
        words = [sys.executable, "-I", "-m", "hpcrunner.job", str(self.batch), "1"]
        return self._start(["bash", "-c", f"{prologue}\nexec {shlex.join(words)}"], 1, {})

    def _start(
        self, words: list[str], index: int, environ: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        with (self.batch / LOGS / f"{index}.out").open("ab") as log:
            process = subprocess.Popen(
                words,
                env={**env, **environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def run(self, *experiments: PlannedExperiment, setup: dict[str, Any] | None = None) -> Record:
        """Write the batch, run task 1 to its end, and read its record."""
        self.write(*experiments, **(setup or {}))
        self.start().wait(PATIENCE)
        return self.record()

    @staticmethod
    def wait_until(condition: Callable[[], object]) -> None:
        """Return once the condition is true; fail after PATIENCE seconds."""
        until = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < until, "waited in vain"
            time.sleep(0.02)

    def record(self, index: int = 1) -> Record:
        path = self.batch / "records" / f"{index}.json"
        assert path.exists(), self.log(index)
        return record_from_json(path.read_text())

    def log(self, index: int = 1) -> str:
        return (self.batch / LOGS / f"{index}.out").read_text()

    def events(self, index: int = 1) -> list[dict[str, Any]]:
        path = self.batch / "events" / str(index)
        return [json.loads(line) for line in path.read_text().splitlines()]

    def event(self, name: str, index: int = 1) -> dict[str, Any] | None:
        """The first event of that name, or None."""
        if not (self.batch / "events" / str(index)).exists():
            return None
        return next((e for e in self.events(index) if e["event"] == name), None)


def wheel(folder: Path, name: str, version: str, requires: str = "") -> None:
    """A minimal pure wheel (PEP 427)."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += f"Requires-Dist: {requires}\n" if requires else ""
    tag = "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", f"version = {version!r}\n")
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", tag)
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def offline(tmp_path: Path) -> dict[str, str]:
    """An environment in which the installers find a folder of wheels and nothing else."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel(wheels, "alpha", "1.0", "beta==1.0")
    wheel(wheels, "beta", "1.0")
    wheel(wheels, "beta", "2.0")
    job = {
        name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))
    }
    job.update(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(wheels))
    job.update(UV_NO_INDEX="1", UV_FIND_LINKS=str(wheels), UV_OFFLINE="1")
    return builder_environment(job, (), tmp_path / "cache")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path / "node with 'blanks'")
    made.store.mkdir(parents=True)
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)
