"""The process that owns pyslurm: ``… pyslurm_child FD``, called over the socket FD (child_side.py).

``{"call": "hello"}`` → ``{"pyslurm": "22.5.3", "slurm": "22.5.8"}`` (its own, its libslurm's)
``{"call": "submit", "job": ATTRIBUTES}`` → ``{"id": 123}``
``{"call": "jobs", "prefix"}`` → ``{"jobs": [[id, index, name, state, start, node, reason], …]}``

It stands alone for three reasons: a pyslurm fits one Slurm and few Pythons, so it may be another
interpreter's; while the controller is away it holds all of a process's threads for 9 s; and it is
under the GPL. So nothing but the standard library and pyslurm is imported here.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

from hpcrunner.schedulers.child_side import serve

_NOT_FOR_JOBS = ("LD_LIBRARY_PATH", "LC_CTYPE")


def main(arguments: list[str]) -> int:
    """Serve requests until the parent closes its end."""
    for name in _NOT_FOR_JOBS:
        os.environ.pop(name, None)
    inherited = dict(os.environ)
    # For libslurm: lists of waiting tasks come whole (squeue(1)). Not in os.environ, out of which
    # pyslurm would give it to the jobs.
    os.putenv("SLURM_BITSTR_LEN", "0")
    serve(int(arguments[0]), Pyslurm(inherited))
    return 0


class Pyslurm:
    """Its calls. ``inherited`` is the environment that jobs may be given."""

    def __init__(self, inherited: dict[str, str]) -> None:
        self.sent = False
        self._inherited = inherited

    def calls(self) -> dict[str, Any]:
        """See Library.calls."""
        return {"hello": self.hello, "submit": self.submit, "jobs": self.jobs}

    def hello(self) -> dict[str, str]:
        """Which versions there are."""
        import pyslurm

        slurm = ".".join(str(part) for part in pyslurm.slurm_api_version())
        return {"pyslurm": str(pyslurm.__version__), "slurm": slurm}

    def submit(self, *, job: dict[str, Any]) -> dict[str, int]:
        """Submit what batch/pyslurm.py describes."""
        import pyslurm

        export = job.pop("export")
        description = pyslurm.JobSubmitDescription(**job)
        description.environment = self._environment(export, job["working_directory"])
        description.get_user_environment = export == "NONE"
        self.sent = True
        try:
            return {"id": int(description.submit())}
        except (ValueError, TypeError, KeyError):
            self.sent = False  # said of the description, while it was put together
            raise

    def _environment(self, export: str, folder: str) -> dict[str, str]:
        """What sbatch would give the job, by its ``--export``."""
        mask = os.umask(0o077)
        os.umask(mask)
        inherited = self._inherited
        if export != "ALL":
            inherited = {n: v for n, v in inherited.items() if n.startswith("SLURM_")}
        return {
            **inherited,
            "SLURM_EXPORT_ENV": export,
            "SLURM_SUBMIT_DIR": folder,
            "SLURM_SUBMIT_HOST": socket.gethostname(),
            "SLURM_UMASK": f"{mask:04o}",
        }

    def jobs(self, *, prefix: str) -> dict[str, Any]:
        """Jobs of this user whose names begin so; a row for each task of an array."""
        import pyslurm

        user = os.getuid()
        rows: list[list[Any]] = []
        for job in pyslurm.Jobs.load().values():
            if job.user_id != user or not str(job.name or "").startswith(prefix):
                continue
            base = job.id if job.array_id is None else job.array_id
            told = [job.name, str(job.state), job.start_time, job.allocated_nodes or ""]
            for index in _indices(job):
                rows.append([base, index, *told, str(job.state_reason or "")])
        return {"jobs": rows}


def _indices(job: Any) -> Iterator[int | None]:
    """The job's place in its array; those of all that still wait in it; None for no array."""
    if job.array_task_id is not None:
        yield job.array_task_id
    elif job.array_tasks_waiting:
        yield from tasks(str(job.array_tasks_waiting))
    else:
        yield None


def tasks(text: str) -> Iterator[int]:
    """The indices in Slurm's ``1-3,7,10-20:2%4``. Raises ValueError."""
    for part in text.partition("%")[0].split(","):
        bounds, _, step = part.partition(":")
        first, _, last = bounds.partition("-")
        yield from range(int(first), int(last or first) + 1, int(step or 1))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
