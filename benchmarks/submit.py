"""What many experiments cost the login node: hpcrunner beside a loop of sbatch.

Run by an ordinary user on a cluster (the development cluster will do)::

    python benchmarks/submit.py --site development-cluster --experiments 200

Both submit the same number of jobs that do nothing, in turn, three times: the loop calls sbatch
once for each; hpcrunner takes requests from a directory queue, journals them, and submits them.
Printed are the seconds of each turn and the ratio of the medians. The jobs are cancelled.

``--scheduler`` names other backends than the site's, to be compared with each other; with
``--singly`` each experiment is a submission of its own, which shows what one costs. ``pyslurm``
needs HPCRUNNER_PYSLURM_PYTHON, a Python that has it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from hpcrunner.client.build import Work
from hpcrunner.client.publish import publish, store_work
from hpcrunner.gateway.assemble import open_gateway
from hpcrunner.gateway.experiment import State
from hpcrunner.gateway.options import GatewayOptions
from hpcrunner.queues.sources import QueueOptions
from hpcrunner.sites.load import load_site, with_spool
from hpcrunner.sites.site import Site

TURNS = 3
NOT_SUBMITTED = (State.ACCEPTED, State.SUBMITTING)


def by_sbatch(count: int) -> float:
    began = time.monotonic()
    ids = [
        subprocess.run(
            ["sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap=true"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for _ in range(count)
    ]
    took = time.monotonic() - began
    subprocess.run(["scancel", *ids], check=True)
    return took


def by_hpcrunner(count: int, site: Site) -> float:
    with tempfile.TemporaryDirectory(dir=Path.home()) as name:
        folder = Path(name)
        (folder / "code").mkdir()
        (folder / "code" / "run.py").write_text("")
        for _ in range(count):
            _, body = store_work(Work("run.py"), folder / "code", folder / "store")
            publish(folder / "queue" / "local_bench", body)
        site = with_spool(site, str(folder / "spool"))
        queues = QueueOptions(gateway_id="bench", queue_root=str(folder / "queue"))
        with open_gateway(site, GatewayOptions(queues=queues)) as (gateway, journal):
            began = time.monotonic()
            # Some may have run to their end by the time the last is submitted.
            while journal.count(*State) < count or journal.count(*NOT_SUBMITTED):
                gateway.step()
            took = time.monotonic() - began
            ids = {e.job_id.split("_")[0] for e in journal.live()}
        subprocess.run(["scancel", *ids], check=True)
        time.sleep(2)
    return took


def variant(site: Site, scheduler: str, *, singly: bool) -> Site:
    keys = dict(site)
    if scheduler:
        keys["scheduler"] = scheduler
        keys["pyslurm"] = {"python": os.environ.get("HPCRUNNER_PYSLURM_PYTHON")}
    if singly:
        limits = {**dict(site.limits), "max_array_tasks": 1, "submit_rate": "10000/1s"}
        keys["limits"] = limits
    return Site.model_validate(keys)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--site", default="development-cluster")
    parser.add_argument("--experiments", type=int, default=200)
    parser.add_argument("--scheduler", action="append", help="may be repeated")
    parser.add_argument("--singly", action="store_true")
    given = parser.parse_args()
    base = load_site(given.site)
    names = given.scheduler or [""]
    sites = {name: variant(base, name, singly=given.singly) for name in names}
    theirs: list[float] = []
    ours: dict[str, list[float]] = {name: [] for name in sites}
    for _ in range(TURNS):
        theirs.append(by_sbatch(given.experiments))
        told = [f"sbatch loop {theirs[-1]:.2f} s"]
        for name, site in sites.items():
            ours[name].append(by_hpcrunner(given.experiments, site))
            told.append(f"hpcrunner {name} {ours[name][-1]:.2f} s".replace("  ", " "))
        print(", ".join(told), flush=True)
    for name, took in ours.items():
        ratio = statistics.median(theirs) / statistics.median(took)
        by = f" by {name}" if name else ""
        print(f"{given.experiments} experiments{by}: the loop takes {ratio:.1f} times as long")


if __name__ == "__main__":
    main()
