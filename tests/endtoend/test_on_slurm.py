"""The whole way on a real Slurm, through sbatch and through DRMAA."""

from __future__ import annotations

import http.client
import json
import re
import secrets
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slurm

LEDGER = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
os.write(fd, (os.environ["STUDIOML_EXPERIMENT"] + "\\n").encode())
"""

ENDINGS = """
import sys, time
if sys.argv[1] == "exit":
    print("the last thing it said")
    sys.exit(3)
if sys.argv[1] == "memory":
    hog = bytearray(1_600_000_000)
    time.sleep(20)
if sys.argv[1] == "long":
    time.sleep(600)
print("well")
print('{"experiment": {"result": 1}}')
"""

SECRETIVE = """
import os, sys, time
assert os.environ["API_TOKEN"]
print("ready", flush=True)
until = time.monotonic() + 200
while time.monotonic() < until and not os.path.exists(sys.argv[1]):
    time.sleep(0.1)
"""


def until(holds: Callable[[], Any], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := holds():
            return answer
        time.sleep(0.5)
    raise AssertionError(f"{holds} never held")


@pytest.mark.timeout(700)
def test_five_hundred_equal_experiments_are_a_handful_of_submissions_and_each_runs_once(
    flow: Any,
) -> None:
    ledger = flow.folder / "ledger"
    flow.write_site(
        **{"  - name: cpu # n2": "  - name: short", "max_time: 1-00:00:00": "max_time: 00:02:00"}
    )
    keys = flow.publish(
        LEDGER, {"args": [str(ledger)], "ram": "64m", "max_duration": "30s", "times": 500}
    )
    flow.finish(500, seconds=600)
    assert Counter(ledger.read_text().split()) == Counter(keys)
    told = flow.status()
    assert {e["state"] for e in told} == {"SUCCEEDED"}, flow.log()[-3000:]
    submissions = {e["job_id"].split("_")[0] for e in told}
    assert len(submissions) <= 5


def test_every_ending_is_told_with_its_own_reason(flow: Any) -> None:
    flow.write_site(**{"partitions:": f"metadata_store: {flow.folder}/documents\npartitions:"})
    keys = flow.publish(
        ENDINGS,
        {"args": ["well"]},
        {"args": ["exit"]},
        {"args": ["memory"], "ram": "1GiB"},
        {"args": ["long"], "max_duration": "3s"},
        {"args": ["well"], "project": "unfetchable"},
        {"args": ["well"], "ram": "900g"},
    )
    flow.finish(len(keys))
    told = {e["key"]: e for e in flow.status()}
    by_cgroup = flow.cluster.facts["slurm"]["memory_enforced_by"] == "cgroup"
    reasons = [(told[k]["state"], told[k]["reason"]) for k in keys]
    assert reasons == [
        ("SUCCEEDED", "COMPLETED"),
        ("FAILED", "PAYLOAD_EXIT"),
        # Without cgroups Slurm kills it all the same, and does not say why.
        ("FAILED", "OUT_OF_MEMORY" if by_cgroup else told[keys[2]]["reason"]),
        ("FAILED", "MAX_DURATION"),
        ("FAILED", "ARTIFACT_NOT_FOUND"),
        ("REJECTED", "REJECTED"),
    ], [told[k]["text"] for k in keys]
    assert told[keys[1]]["exit_code"] == 3
    assert "the last thing it said" in told[keys[1]]["text"]
    assert "900" in told[keys[5]]["text"] or "memory" in told[keys[5]]["text"]
    # Each attempt that had a node has left its metadata, also where the code never came.
    found = flow.folder.glob("store/**/metadata/scrape-host-*.json")
    scraped = {d["studioml"]["experiment"]["key"]: d for d in map(_json, found)}
    statuses = {n: scraped[keys[n]]["studioml"]["status"] for n in (0, 1, 3, 4)}
    assert statuses == {
        0: "completed",
        1: "payload_exit",
        3: "max_duration",
        4: "artifact_not_found",
    }
    good = scraped[keys[0]]
    assert good["experiment"] == {"result": 1}
    assert good["studioml"]["slurm"]["partition"]
    assert told[keys[0]]["job_id"].split("_")[0] in good["studioml"]["slurm"].values()
    # And the gateway a document of each, also of the one that nobody ran.
    documents = {p.stem: _json(p) for p in flow.folder.glob("documents/*.json")}
    assert sorted(documents) == sorted(keys)
    assert documents[keys[0]]["metadata"]["experiment"] == {"result": 1}
    assert documents[keys[5]]["hpcrunner"]["state"] == "REJECTED"


def test_cancel_ends_what_waits_and_what_runs(flow: Any) -> None:
    running, waiting = flow.publish(
        ENDINGS, {"args": ["long"]}, {"args": ["long"], "cpus": 8, "ram": "7g"}
    )
    process = flow.gateway("--limit-tasks", "2", "--prom-address", "127.0.0.1:0")
    try:
        states = lambda: {e["key"]: e for e in flow.status()}  # noqa: E731
        until(lambda: states().get(running, {}).get("state") == "RUNNING")
        until(lambda: states()[waiting]["pending"] in ("Resources", "Priority"))
        # Some are of the journal, some of what is told after it was written down.
        wanted = (
            r'hpcrunner_experiments{state="RUNNING"} 1.0',
            r'hpcrunner_experiments{state="PENDING"} 1.0',
            r"hpcrunner_requested_cores 9.0",
            r"hpcrunner_time_to_start_seconds_count 1.0",
            rf'runner_project_running{{experiment="{running}".* 1.0',
        )
        for line in wanted:
            until(lambda line=line: re.search(line, _metrics(flow)))
        flow.cluster.run(
            flow.cluster.bin / "hpcrunner", "cancel", running, waiting, "--site", flow.site
        )
        assert process.wait(120) == 0
    finally:
        process.kill()
    ended = states()
    assert {e["state"] for e in ended.values()} == {"CANCELLED"}
    assert {e["reason"] for e in ended.values()} == {"CANCELLED"}


def test_no_secret_can_be_seen_by_others_while_it_runs_or_after(flow: Any) -> None:
    looked = flow.folder / "looked"
    # Nobody else's on this machine, since all its processes are looked at.
    of_the_user, of_the_gateway = secrets.token_hex(12), secrets.token_hex(12)
    (key,) = flow.publish(
        SECRETIVE, {"args": [str(looked)], "environment": {"API_TOKEN": of_the_user}}
    )
    process = flow.gateway(
        "--limit-tasks", "1", env={"GATEWAY_SECRET": of_the_gateway, "AWS_PROFILE": "mine"}
    )
    try:
        told = until(lambda: [e for e in flow.status() if e["state"] == "RUNNING"])[0]
        # Slurm calls a job running before its script has come to the job side.
        log = flow.status(key)[0]["log"]
        until(lambda: Path(log).exists() and "ready" in Path(log).read_text())
        shown = _output("scontrol", "show", "job", "-dd", told["job_id"])
        shown += _output("squeue", "-h", "-o", "%all")
        shown += _output("ps", "-eo", "args")
        job_side = _output("pgrep", "-f", rf"hpcrunner\.job {flow.folder}").split()
        environments = b"".join(_environment(pid) for pid in job_side)
        assert job_side
        assert of_the_gateway.encode() not in environments
        looked.touch()
        assert process.wait(120) == 0
    finally:
        process.kill()
    shown += _output("sacct", "-P", "-o", "ALL", "-j", told["job_id"])
    shown += flow.log()
    for script in flow.folder.glob("spool/batches/*/script"):
        shown += script.read_text()
    assert of_the_user not in shown
    assert of_the_gateway not in shown
    spool = flow.folder / "spool"
    assert (spool / "journal.db").exists()
    assert [p for p in (spool, *spool.rglob("*")) if _is_open_to_others(p)] == []
    assert [e["state"] for e in flow.status(key)] == ["SUCCEEDED"]


def _metrics(flow: Any) -> str:
    """What the flow's gateway tells Prometheus."""
    address = until(lambda: re.search(r"metrics at http://([0-9.:]+)/", flow.log()))[1]
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def _is_open_to_others(path: Path) -> bool:
    try:
        return bool(stat.S_IMODE(path.lstat().st_mode) & 0o077)
    except FileNotFoundError:
        return False  # the job side's own end may be a moment behind the gateway's


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


def _output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=60).stdout


def _environment(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
