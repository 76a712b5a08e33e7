"""A Grid Engine host that dies under jobs: run again by the gateway, or by Grid Engine; once."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.gridengine

ROOT = Path(__file__).parents[2]
SITE = """\
extends: generic-gridengine
spool: {spool}
account: {project}
drmaa: {{library: {library}}}
partitions: [{{name: all.q, max_time: 1-00:00:00, max_cpus: 8}}]
defaults: {{memory: 300M, time_limit: 00:30:00}}
requeue: {requeue}
retries: {{backoff: 0, infrastructure: 1}}
kill_wait: {notify}
staging_allowance: 00:02:00
settle: 5
record_wait: 3
accounting: {{wait: 3}}
polling: {{floor: 0.5, ceiling: 1}}
"""
# The first start never ends by itself; each one leaves a line.
FIRST_HANGS = """
import os, sys, time
with open(f"{sys.argv[1]}/starts", "a") as file:
    print(os.environ["STUDIOML_ATTEMPT"], os.environ["RESTARTED"], file=file)
if len(open(f"{sys.argv[1]}/starts").readlines()) == 1:
    time.sleep(600)
print("well")
"""


class Cell:
    """Grid Engine as root has it."""

    def __init__(self, cluster: Any) -> None:
        self.facts = cluster.facts["gridengine"]
        self.environ = {**self.facts["environment"], "PATH": f"{self.facts['binaries']}:/usr/bin"}

    def ask(self, *words: str | Path) -> str:
        done = subprocess.run(words, env=self.environ, check=True, capture_output=True, text=True)
        return done.stdout

    @contextmanager
    def quick(self, folder: Path) -> Iterator[None]:
        """A host that is not heard of is unknown, and jobs with -r y waiting again, in seconds."""
        before = self.ask("qconf", "-sconf", "global")
        # The master looks every 15 seconds.
        changed = re.sub(r"(?m)^(max_unheard +).*", r"\g<1>00:00:12", before)
        changed = re.sub(r"(?m)^(reschedule_unknown +).*", r"\g<1>00:00:02", changed)
        try:
            self._configure(folder / "global", changed)
            yield
        finally:
            self._configure(folder / "global", before)

    def _configure(self, file: Path, text: str) -> None:
        file.write_text(text)
        self.ask("qconf", "-Mconf", file)


def dev_cluster(*words: str) -> None:
    argv = [sys.executable, "-m", "dev.cluster", *words]
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, timeout=500)


def until(holds: Callable[[], Any], seconds: float = 240) -> Any:
    end = time.monotonic() + seconds
    while not (answer := holds()):
        assert time.monotonic() < end
        time.sleep(0.3)
    return answer


def starts(flow: Any) -> list[str]:
    path = flow.folder / "starts"
    return path.read_text().splitlines() if path.exists() else []


def test_an_experiment_whose_host_died_runs_again_once(
    flow_type: Any, cluster: Any, new_workdir: Any, tmp_path: Path
) -> None:
    if not cluster.facts.get("gridengine"):
        pytest.skip("no Grid Engine here: 'make cluster' says why")
    cell = Cell(cluster)
    host, running = cell.facts["host"], []
    words = {"project": cell.facts["project"], "library": cell.facts["drmaa_library"]}
    environ = {**cell.environ, "PATH": f"{cell.facts['binaries']}:{cluster.bin}:/usr/bin:/bin"}
    with new_workdir() as ours, new_workdir() as theirs:
        flows = [flow_type(cluster, folder, "gridengine") for folder in (ours, theirs)]
        by_gateway, by_master = flows
        try:
            for flow in flows:
                spool, requeue = flow.folder / "spool", str(flow is by_master).lower()
                notify = cell.facts["notify_seconds"]
                flow.site.write_text(
                    SITE.format(spool=spool, requeue=requeue, notify=notify, **words)
                )
                flow.publish(FIRST_HANGS, {"args": [str(flow.folder)]})
                running.append(flow.gateway("--limit-tasks", "1", env=environ))
            for flow in flows:
                until(lambda flow=flow: starts(flow))
                until(lambda flow=flow: flow.status()[0]["state"] == "RUNNING")
            dev_cluster("node-fail", host)
            try:
                # The job that Grid Engine may start again waits; nobody knows of the other. Only
                # now, lest a host that is merely busy is taken for dead.
                (job,) = (told["job_id"] for told in by_master.status())
                waiting = re.compile(rf"(?m)^ *{job} .* Rq ")
                with cell.quick(tmp_path):
                    until(lambda: waiting.search(cell.ask("qstat", "-u", "*")))
                assert by_gateway.status()[0]["state"] == "RUNNING"
            finally:
                dev_cluster("node-return", host)
            for flow, gateway in zip(flows, running, strict=True):
                assert gateway.wait(300) == 0, flow.log()
        finally:
            for gateway in running:
                gateway.terminate()
                gateway.wait(120)
        (again,), (restarted,) = (flow.status(flow.status()[0]["key"]) for flow in flows)
        assert (again["state"], again["attempt"]) == ("SUCCEEDED", 2), by_gateway.log()
        (first,) = again["attempts"]
        assert (first["reason"], first["node"]) == ("NODE_FAIL", host), first
        assert host in first["text"], first
        assert starts(by_gateway) == ["1 0", "2 0"]
        assert (restarted["state"], restarted["attempt"]) == ("SUCCEEDED", 1), by_master.log()
        assert starts(by_master) == ["1 0", "1 1"]
