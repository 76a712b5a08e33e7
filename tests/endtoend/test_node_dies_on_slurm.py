"""A node that dies under a job, on the real cluster: its own reason, and another attempt."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[2]
LOW = {"  - name: cpu # n2": "  - name: low\n    qos: low"}
FIRST_HANGS = """
import os, sys, time
print("attempt", os.environ["STUDIOML_ATTEMPT"], flush=True)
if os.environ["STUDIOML_ATTEMPT"] == "1":
    time.sleep(600)
"""


def dev_cluster(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "dev.cluster", *words], cwd=ROOT, check=True, timeout=500)


@pytest.fixture
def node_dies(cluster: Any) -> Iterator[Any]:
    """Kills a node with all that runs on it; all are back after the test."""
    dead: list[str] = []

    def die(node: str) -> None:
        dead.append(node)
        dev_cluster("node-fail", node)
        dev_cluster("node-return", node)

    yield die
    for node in dead:
        dev_cluster("node-return", node)


def printed(told: dict[str, Any]) -> str:
    log = Path(told["log"])
    return log.read_text() if log.exists() else ""


def run_until_the_node_has_died(flow: Any, node_dies: Any) -> str:
    """Returns the node that died under the one experiment's first attempt."""
    process = flow.gateway("--limit-tasks", "1")
    try:
        end = time.monotonic() + 120
        while True:
            assert time.monotonic() < end, flow.log()
            told = [flow.status(e["key"])[0] for e in flow.status()]
            if told and told[0]["node"] and "attempt 1" in printed(told[0]):
                break
            time.sleep(0.5)
        node: str = told[0]["node"]
        node_dies(node)
        assert process.wait(180) == 0, flow.log()
    finally:
        process.kill()
    return node


def test_an_experiment_whose_node_died_runs_again_on_another(flow: Any, node_dies: Any) -> None:
    flow.write_site(**LOW, **{"settle: 15": "settle: 15\nretries: {backoff: 1}"})
    (key,) = flow.publish(FIRST_HANGS, {"cpus": 1})
    node = run_until_the_node_has_died(flow, node_dies)
    (told,) = flow.status(key)
    assert (told["state"], told["attempt"]) == ("SUCCEEDED", 2), told
    (first,) = told["attempts"]
    assert (first["reason"], first["node"]) == ("NODE_FAIL", node), told
    assert told["node"] != node


def test_a_dead_node_is_the_reason_where_no_further_attempt_is_due(
    flow: Any, node_dies: Any
) -> None:
    flow.write_site(**LOW, **{"settle: 15": "settle: 15\nretries: {infrastructure: 0}"})
    (key,) = flow.publish(FIRST_HANGS, {"cpus": 1})
    node = run_until_the_node_has_died(flow, node_dies)
    (told,) = flow.status(key)
    assert (told["state"], told["reason"]) == ("FAILED", "NODE_FAIL"), told
    assert node in told["text"]
    done = flow.cluster.run(flow.cluster.bin / "hpcrunner", "dead", "list", "--site", flow.site)
    assert key in done.stdout
