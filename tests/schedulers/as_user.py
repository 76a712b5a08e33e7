"""Run by the cluster's ordinary user: ``as_user.py REQUEST``, a JSON file; answers JSON.

The request names a backend and a list of steps; each step's answer is one element of the list
that is printed. Jobs are asked for as (id, name) and answered by id. Errors of the contract are
answers too.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpcrunner.batch.batch import Batch
from hpcrunner.schedulers.choose import open_scheduler
from hpcrunner.schedulers.command import Completed, run
from hpcrunner.schedulers.contract import (
    Job,
    JobState,
    SchedulerUnavailable,
    Sighting,
    SubmitRefused,
    SubmitUncertain,
)
from hpcrunner.sites.site import Site
from hpcrunner.sites.spec import JobSpec


def main(path: str) -> None:
    request = json.loads(Path(path).read_text())
    os.environ.update(request.get("environ", {}))
    scheduler = open_scheduler(Site(**request["site"]), Path(request["folder"]))
    answers: list[Any] = [scheduler.name]
    for step in request["steps"]:
        try:
            answers.append(globals()["do_" + step.pop("do")](scheduler, **step))
        except SubmitRefused as error:
            answers.append({"refused": error.line(), "passing": error.passing})
        except SubmitUncertain as error:
            answers.append({"uncertain": error.line()})
        except SchedulerUnavailable as error:
            answers.append({"unavailable": error.line()})
    scheduler.close()
    print(json.dumps(answers))


def do_submit(scheduler: Any, *, script: str, **batch: Any) -> Any:
    made = batch_of(**batch)
    made.logs.mkdir(parents=True, exist_ok=True)
    made.script.write_text(f"#!/bin/bash\n{script}\n")
    made.script.chmod(0o700)
    return list(scheduler.submit(made).job_ids)


def do_seek(scheduler: Any, *, left: bool = False, **batch: Any) -> Any:
    """With ``left`` the live queue no longer shows the job, as after MinJobAge."""
    witness = getattr(scheduler, "witness", None) or scheduler.slurm
    queue = getattr(witness, "live", None)
    if left:
        witness.runner = without_queue
        witness.listing.clear()
        if queue:
            witness.live = list
    made = batch_of(**batch)
    sought = scheduler.seek([made], time.time() - 600)[made.id]
    if left:
        witness.runner = run
        witness.listing.clear()
        if queue:
            witness.live = queue
    ids = list(sought.submission.job_ids) if sought.submission else None
    return [sought.verdict.value, ids]


def do_look_up(scheduler: Any, *, jobs: list[list[str]]) -> Any:
    seen = scheduler.look_up([Job(*job) for job in jobs], time.time() - 3600)
    return {job.id: plain(s) for job, s in seen.items()}


def do_wait(scheduler: Any, *, jobs: list[list[str]], seconds: float, state: str = "ENDED") -> Any:
    """Until all are in that state, and accounted once they have ended."""
    end = time.monotonic() + seconds
    asked = [Job(*job) for job in jobs]
    while True:
        seen = scheduler.look_up(asked, time.time() - 3600)
        if all(
            s.state is JobState(state) and (s.accounted or state != "ENDED") for s in seen.values()
        ):
            return {job.id: plain(s) for job, s in seen.items()}
        if time.monotonic() > end:
            return {job.id: plain(s) for job, s in seen.items()}
        time.sleep(0.5)


def do_cancel(scheduler: Any, *, jobs: list[list[str]]) -> Any:
    return scheduler.cancel([Job(*job) for job in jobs])


def batch_of(*, id: str, folder: str, size: int = 1, spec: dict[str, Any] | None = None) -> Batch:
    return Batch(id, JobSpec(**(spec or {})), size, Path(folder) / id)


def plain(sighting: Sighting) -> dict[str, Any]:
    values = asdict(sighting)
    return {k: getattr(v, "value", v) for k, v in values.items()}


def without_queue(argv: Any, **options: Any) -> Completed:
    nothing = {"squeue": "", "qstat": "<job_info/>"}
    empty = nothing.get(argv[0])
    return run(argv, **options) if empty is None else Completed(empty, "", 0)


if __name__ == "__main__":
    main(sys.argv[1])
