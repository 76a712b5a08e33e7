"""Batch: N experiments of one shape that are submitted together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hpcrunner.request.plan import LOGS, SCRIPT_NAME
from hpcrunner.sites.spec import JobSpec

NAME_PREFIX = "hpcr-"


@dataclass(frozen=True, slots=True)
class Batch:
    """What a scheduler needs to submit: a script, its shape, and how many tasks.

    ``id`` is lower-case hex, unique for ever; the job's name carries it as the marker by which
    a submission is found again after a crash. ``folder`` is the batch's folder in the spool.
    """

    id: str
    spec: JobSpec
    size: int
    folder: Path

    @property
    def name(self) -> str:
        """The job name: the marker. Safe in every scheduler's dialect."""
        return NAME_PREFIX + self.id

    @property
    def comment(self) -> str:
        """A second, weaker marker: sites may drop comments. No blanks, no ``=``."""
        return f"hpcrunner:{self.id}"

    @property
    def script(self) -> Path:
        """The batch script's path."""
        return self.folder / SCRIPT_NAME

    @property
    def logs(self) -> Path:
        """The folder of the scheduler's output files, one ``<index>.out`` a task."""
        return self.folder / LOGS
