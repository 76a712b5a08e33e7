"""A node of the fake: ``python -m slurm.node STORE``. It runs the scripts of waiting jobs.

As slurmstepd does: the script in a process group of its own, in the job's folder, its output
appended to the job's file, SIGTERM to all of it when the job is cancelled, and the end told to
the controller. Few jobs at once, since these are real processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

from slurm.cluster import UP
from slurm.store import Store

MOST = 4
TICK = 0.1
_NAME = "node1"


def main(path: str) -> None:
    """Until killed."""
    store = Store(path)
    running: dict[tuple[int, int | None], subprocess.Popen[bytes]] = {}
    told: set[tuple[int, int | None]] = set()
    while True:
        with store.open() as cluster:
            now = time.time()
            cluster.settle(now)
            _end_some(cluster, running, told, now)
            if cluster.controller == UP:
                _start_some(cluster, running, now)
        time.sleep(TICK)


def _end_some(cluster, running, told, now) -> None:  # type: ignore[no-untyped-def]
    for at, process in list(running.items()):
        job = cluster.jobs.get(at[0])
        task = job.tasks.get(at[1]) if job else None
        if (task is None or task.told) and at not in told:
            told.add(at)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        code = process.poll()
        if code is None:
            continue
        del running[at]
        if task is None:
            continue
        if task.flag == "COMPLETING":
            cluster.completed(*at, now)
            continue
        word = "COMPLETED" if code == 0 else "FAILED"
        cluster.end(*at, word, now, code=max(code, 0), signal=max(-code, 0))


def _start_some(cluster, running, now) -> None:  # type: ignore[no-untyped-def]
    for job in list(cluster.jobs.values()):
        for task in list(job.tasks.values()):
            if len(running) >= MOST or not task.waits:
                continue
            variables = cluster.start(job.base, task.index, _NAME, now)
            name = job.output.replace("%a", str(task.index or "")).replace("%%", "%")
            environment = {"PATH": os.environ["PATH"], "HOME": job.folder, **variables}
            with open(name, "ab") as output:  # noqa: PTH123
                running[job.base, task.index] = subprocess.Popen(
                    ["bash", job.script],
                    cwd=job.folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )


if __name__ == "__main__":
    main(sys.argv[1])
