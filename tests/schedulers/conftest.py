"""What the scheduler tests share: captured outputs, batches, and a stand-in for commands."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

import hpcrunner
from hpcrunner.batch.batch import Batch
from hpcrunner.schedulers.command import CommandFailed, Completed
from hpcrunner.sites.spec import JobSpec

OUTPUTS = Path(__file__).parent / "outputs"

Answer = Completed | CommandFailed


class Commands:
    """Answers by program name, and what was asked."""

    def __init__(self, **answers: Answer) -> None:
        self.answers = answers
        self.asked: list[list[str]] = []

    def __call__(
        self, argv: Sequence[str], *, timeout: float, environment: Mapping[str, str]
    ) -> Completed:
        self.asked.append(list(argv))
        answer = self.answers[argv[0]]
        if isinstance(answer, CommandFailed):
            raise answer
        return answer

    @property
    def programs(self) -> list[str]:
        return [argv[0] for argv in self.asked]


@pytest.fixture
def captured() -> Callable[[str], Completed]:
    """A real output, captured from Slurm 22.05.8, as a command that went well."""
    return lambda name: Completed((OUTPUTS / name).read_text(), "", 0)


@pytest.fixture
def commands() -> type[Commands]:
    return Commands


@pytest.fixture
def make_batch(tmp_path: Path) -> Callable[..., Batch]:
    """A batch on disk with an executable script."""

    def make(
        batch_id: str = "ab12",
        size: int = 1,
        script: str = "true",
        folder: Path = tmp_path,
        **spec: object,
    ) -> Batch:
        batch = Batch(batch_id, JobSpec(**spec), size, folder / batch_id)  # type: ignore[arg-type]
        batch.logs.mkdir(parents=True)
        batch.script.write_text(f"#!/bin/bash\n{script}\n")
        batch.script.chmod(0o700)
        return batch

    return make


@pytest.fixture(scope="session")
def checkout(
    cluster: Any, new_workdir: Callable[[], AbstractContextManager[Path]]
) -> Iterator[Path]:
    """The code under test where the user can read it."""
    with new_workdir() as folder:
        shutil.copytree(
            Path(hpcrunner.__file__).parent,
            folder / "hpcrunner",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        shutil.copy(Path(__file__).parent / "as_user.py", folder)
        # That folder only: its parent holds those of the tests that run meanwhile.
        subprocess.run(["chown", "-R", cluster.user, folder], check=True)
        yield folder
