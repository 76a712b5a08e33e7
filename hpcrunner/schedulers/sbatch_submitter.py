"""Submissions by sbatch(1)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hpcrunner.batch.batch import Batch
from hpcrunner.schedulers import sbatch
from hpcrunner.schedulers.answers import Answer, refused
from hpcrunner.schedulers.command import CommandFailed
from hpcrunner.schedulers.contract import Submission, SubmitUncertain
from hpcrunner.schedulers.environment import job_environment
from hpcrunner.schedulers.slurm import Slurm, submission


@dataclass(slots=True)
class SbatchSubmitter:
    """Submit by sbatch.

    ``options`` gives all that sbatch is asked for a batch, as argv words. ``environment`` is what
    sbatch is given, and with it, under ``--export=ALL``, the job.
    """

    slurm: Slurm
    options: Callable[[Batch], Sequence[str]]
    environment: Mapping[str, str] = field(default_factory=lambda: job_environment(os.environ))
    name: str = field(default="sbatch", init=False)

    def submit(self, batch: Batch) -> Submission:
        """See Scheduler.submit."""
        argv = sbatch.argv(batch, self.options(batch))
        try:
            completed = self.slurm.runner(
                argv, timeout=self.slurm.patience.submit, environment=self.environment
            )
        except CommandFailed as error:
            if not error.started:
                raise refused(error.what, Answer.NOT_NOW, where="sbatch") from error
            raise SubmitUncertain(
                error.what, where="sbatch", remedy="the batch is looked up by its name"
            ) from error
        return submission(batch, sbatch.parse(completed))

    def close(self) -> None:
        """Nothing is held between calls."""
