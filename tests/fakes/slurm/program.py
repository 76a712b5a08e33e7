"""The five commands as executables over one store."""

from __future__ import annotations

import os
import signal
import sys
import time

from slurm.commands import answer
from slurm.store import Store

PROGRAMS = ("sbatch", "squeue", "sacct", "scancel", "scontrol")
_FOREVER = 3600.0


def install(folder: str, store: str) -> None:
    """Put the executables into ``folder``, which is to be first on the PATH.

    The store's path stands in them: hpcrunner hands no variables of ours on.
    """
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    os.makedirs(folder, exist_ok=True)  # noqa: PTH103
    for name in PROGRAMS:
        path = os.path.join(folder, name)  # noqa: PTH118
        with open(path, "w") as file:  # noqa: PTH123
            file.write(
                f"#!{sys.executable} -IS\nimport sys\nsys.path.insert(0, {here!r})\n"
                f"from slurm.program import main\nmain({store!r}, sys.argv)\n"
            )
        os.chmod(path, 0o755)  # noqa: PTH101


def main(store: str, argv: list[str]) -> None:
    """One call of a command."""
    environ = dict(os.environ)
    with Store(store).open() as cluster:
        given = answer(cluster, argv, environ, time.time())
    if given.hangs:
        time.sleep(_FOREVER)
    sys.stdout.write(given.stdout)
    sys.stderr.write(given.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    if given.status < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(given.status)
