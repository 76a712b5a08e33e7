"""Many users on the real Slurm: each owner's jobs in the account and QOS that the rules give."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slurm

RULES = """
rules:
  - name: students
    queues: ^local_students_
    account: limited
    qos: low
    partitions: [cpu]
    max_cpus: 1
    max_jobs_per_owner: 1
  - {name: staff, queues: ^local_staff_, qos: high}
queue_weights:
  - {queues: ^local_staff_, weight: 3}
"""


@pytest.mark.parametrize("scheduler", ["sbatch", "pyslurm"])
def test_two_queues_get_two_accounts_and_an_owners_limit_holds(
    cluster: Any, workdir: Path, flow_type: Any, scheduler: str
) -> None:
    python = os.environ.get("HPCRUNNER_PYSLURM_PYTHON", "")
    if scheduler == "pyslurm" and not python:
        pytest.skip("no pyslurm: HPCRUNNER_PYSLURM_PYTHON names no Python that has it")
    flow = flow_type(cluster, workdir, scheduler)
    flow.write_site()
    library = f"pyslurm: {{python: {python}}}\n" if scheduler == "pyslurm" else ""
    flow.site.write_text(flow.site.read_text() + RULES + library)
    wait = f"import os, time\nwhile not os.path.exists('{flow.folder}/go'): time.sleep(0.1)"
    work = {"ram": "64m", "cpus": 1}
    flow.publish(
        wait,
        {**work, "queue": "local_students_a", "owner": "ann", "times": 2},
        {**work, "queue": "local_students_b", "owner": "bob"},
        {**work, "queue": "local_staff_c", "owner": "ann", "times": 2},
        {**work, "queue": "local_students_a", "owner": "eve", "cpus": 2},
        {**work, "queue": "local_nobodys", "owner": "eve"},
    )
    process = flow.gateway("--limit-tasks", "7")
    try:
        end = time.monotonic() + 120
        told: list[dict[str, Any]] = []
        while sum(e["job_id"] is not None for e in told) < 4 or len(told) < 7:
            assert process.poll() is None and time.monotonic() < end, flow.log()
            time.sleep(0.3)
            told = flow.status()
        (held,) = (e for e in told if e["state"] == "ACCEPTED")
        assert (held["owner"], held["queue"]) == ("ann", "local_students_a")
        assert "rule students: at most 1 of one owner" in held["pending"]
        jobs = {e["job_id"]: e for e in told if e["job_id"]}
        students = [j for j, e in jobs.items() if e["rule"] == "students"]
        assert len({j.split("_")[0] for j in students}) == 1, "of two owners, but one array"
        shown = cluster.run("scontrol", "show", "job", students[0]).stdout
        assert " Account=limited " in shown and "QOS=low" in shown
        refused = {e["text"] for e in told if e["state"] == "REJECTED"}
        assert len(refused) == 2
        assert any("2 CPUs asked, 1 allowed" in text for text in refused)
        assert any("none of the site's rules is for it" in text for text in refused)
        subprocess.run(["touch", flow.folder / "go"], check=True)
        assert process.wait(180) == 0, flow.log()
    finally:
        process.kill()
    ended = {e["job_id"]: e for e in flow.status() if e["job_id"]}
    assert [e["state"] for e in ended.values()] == ["SUCCEEDED"] * 5
    asked = ("sacct", "-X", "-n", "-P", "-o", "JobID,Account,QOS,Partition", "-j")
    rows = cluster.run(*asked, ",".join(ended)).stdout.split()
    for row in rows:
        job, account, qos, partition = row.split("|")
        expected = {"students": ("limited", "low", "cpu"), "staff": ("research", "high", "cpu")}
        assert (account, qos, partition) == expected[ended[job]["rule"]]
    assert len(rows) == 5
