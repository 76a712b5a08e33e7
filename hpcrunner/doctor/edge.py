"""What the doctor needs of the world: commands, environment, clock."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hpcrunner.schedulers.command import CommandFailed, Completed, Runner, run
from hpcrunner.schedulers.slurm_environment import query_environment

PATIENCE = 25.0  # seconds for a command; a controller that is away holds some for 18


@dataclass(frozen=True, slots=True)
class Edge:
    """How commands are run, and in which environment; ``clock`` is epoch seconds."""

    runner: Runner = run
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    clock: Callable[[], float] = time.time
    pause: Callable[[float], None] = time.sleep

    def ask(self, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> Completed:
        """Run a command in the C locale, in an environment without traps or in the one given.

        Raises CommandFailed.
        """
        given = query_environment(self.environ) if environment is None else environment
        return self.runner(argv, timeout=PATIENCE, environment=given)

    def find(self, program: str) -> str:
        """Where a program is, or an empty text."""
        return shutil.which(program, path=self.environ.get("PATH")) or ""

    def first_line(self, argv: Sequence[str]) -> str:
        """The first line that a command prints, or an empty text where it fails."""
        try:
            done = self.ask(argv)
        except CommandFailed:
            return ""
        return "" if done.returncode else done.stdout.strip().partition("\n")[0]
