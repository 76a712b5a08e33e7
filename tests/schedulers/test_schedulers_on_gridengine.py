"""The gridengine backend on a real Grid Engine, as the cluster's ordinary user."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.gridengine

ROOT = Path(__file__).parents[2]
MIB = 1 << 20


@dataclass
class Cell:
    """The backend as the user has it; ids of batches are this test's own.

    ``names`` has the name of every job that was submitted here, by id.
    """

    cluster: Any
    checkout: Path
    folder: Path
    token: str = field(default_factory=lambda: secrets.token_hex(4))
    names: dict[str, str] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = self.cluster.facts["gridengine"]
        return found

    @property
    def environ(self) -> dict[str, str]:
        path = f"{self.facts['binaries']}:{self.cluster.bin}:/usr/bin:/bin"
        return {**self.facts["environment"], "PATH": path}

    def do(self, *steps: dict[str, Any], **environ: str) -> list[Any]:
        request = {
            "site": {
                "name": "test",
                "scheduler": "gridengine",
                "account": self.facts["project"],
                "drmaa": {"library": self.facts["drmaa_library"]},
                "accounting": {"wait": 3.0},
            },
            "folder": str(self.folder),
            "environ": environ,
            "steps": [self._whole(step) for step in steps],
        }
        path = self.folder / f"request-{secrets.token_hex(4)}"
        path.write_text(json.dumps(request))
        path.chmod(0o644)
        done = self.cluster.run(
            *(self.cluster.bin / "python", self.checkout / "as_user.py", path),
            env={**self.environ, "PYTHONPATH": str(self.checkout)},
            timeout=280,
        )
        first, *answers = json.loads(done.stdout)
        assert first == "gridengine"
        for step, answer in zip(steps, answers, strict=True):
            if step["do"] == "submit" and isinstance(answer, list):
                self.names |= dict.fromkeys(answer, f"hpcr-{step['id']}{self.token}")
        return answers

    def _whole(self, step: dict[str, Any]) -> dict[str, Any]:
        """The step with ids of batches made this test's own, and jobs as (id, name)."""
        step = dict(step)
        if "id" in step:
            step |= {"id": step["id"] + self.token, "folder": str(self.folder)}
        if "ids" in step:
            step["jobs"] = [(i, self.names.get(i, "hpcr-ff")) for i in step.pop("ids")]
        return step

    def log(self, batch_id: str, index: int = 1) -> str:
        return (self.folder / (batch_id + self.token) / "logs" / f"{index}.out").read_text()

    def command(self, *argv: str) -> str:
        return str(self.cluster.run(*argv, env=self.environ, check=False).stdout)


@pytest.fixture
def cell(cluster: Any, checkout: Path, workdir: Path) -> Cell:
    if not cluster.facts.get("gridengine"):
        pytest.skip("no Grid Engine here: 'make cluster' says why")
    return Cell(cluster, checkout, workdir)


def submit(batch_id: str, script: str = "true", size: int = 1, **spec: Any) -> dict[str, Any]:
    spec = {"partition": "all.q", "memory": 300 * MIB, "time_limit": 120, **spec}
    return {"do": "submit", "id": batch_id, "script": script, "size": size, "spec": spec}


def wait(ids: list[str], state: str = "ENDED", seconds: float = 200) -> dict[str, Any]:
    return {"do": "wait", "ids": ids, "seconds": seconds, "state": state}


def until(check: Callable[[], bool], seconds: float = 150) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end
        time.sleep(0.2)


@contextmanager
def without(server: str) -> Iterator[None]:
    """One of the two daemons killed meanwhile."""
    dev = [sys.executable, "-m", "dev.cluster"]
    subprocess.run([*dev, "kill", server], cwd=ROOT, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run([*dev, "start", server], cwd=ROOT, check=True, capture_output=True)


def test_an_array_of_fifty_is_one_submission_and_each_task_runs_once(cell: Cell) -> None:
    environ = {"GATEWAY_SECRET": "leak", "LD_LIBRARY_PATH": "/leak"}
    script = "echo task $SGE_TASK_ID; env"
    [ids] = cell.do(submit("a1", script, size=50, memory=100 * MIB), **environ)
    base = ids[0].partition(".")[0]
    assert ids == [f"{base}.{index}" for index in range(1, 51)]
    seen, sought = cell.do(wait(ids), {"do": "seek", "id": "a1", "size": 50, "left": True})
    assert {s["reason"] for s in seen.values()} == {"COMPLETED"}
    assert all(s["node"] == cell.facts["host"] and s["started_at"] for s in seen.values())
    # Found by name in accounting alone, as after the master has forgotten it.
    assert sought == ["FOUND", ids]
    for index in range(1, 51):
        assert cell.log("a1", index).startswith(f"task {index}\n")
    assert "leak" not in cell.log("a1", 1)
    assert "GLIBC_TUNABLES" not in cell.log("a1", 1)


def test_endings_are_told_apart(cell: Cell) -> None:
    """All at once, for each takes its time."""
    # No process takes more than its limit, but all together do.
    hog = "/usr/bin/python3 -c 'import time; m = bytearray(200 << 20); time.sleep(60)'"
    scripts: dict[str, tuple[str, dict[str, Any]]] = {
        "a1": ("exit 7", {}),
        "a2": ("sleep 90", {"time_limit": 4}),
        "a3": ("kill -9 $$", {}),
        "a4": ("kill -TERM $$", {}),
        "a5": ("sleep 90", {}),  # deleted while it runs
        "a6": ("true", {"cpus": 9}),
        "a7": ("true", {"exclude": (cell.facts["host"],)}),
        "a9": (f"{hog} & {hog} & {hog} & wait", {}),
        "a8": ("true", {"gpus": 1, "cpus": 2, "directives": ("-l h_fsize=1G", "-R y")}),
    }
    answers = cell.do(*(submit(n, script, **spec) for n, (script, spec) in scripts.items()))
    jobs = dict(zip(scripts, answers, strict=True))
    assert jobs["a6"]["passing"] and "no suitable queues" in jobs["a6"]["refused"]
    assert "refused" in jobs["a7"]
    ids = {name: answer[0] for name, answer in jobs.items() if isinstance(answer, list)}
    cell.do(wait([ids["a5"]], "RUNNING"), {"do": "cancel", "ids": [ids["a5"]]})
    [seen] = cell.do(wait(list(ids.values())))
    by_name = {name: seen[job] for name, job in ids.items()}
    assert (by_name["a1"]["reason"], by_name["a1"]["exit_code"]) == ("SCHEDULER_FAILED", 7)
    assert by_name["a2"]["reason"] == "TIME_LIMIT"
    assert (by_name["a3"]["reason"], by_name["a3"]["signal"]) == ("SCHEDULER_FAILED", 9)
    assert (by_name["a4"]["reason"], by_name["a4"]["signal"]) == ("SCHEDULER_FAILED", 15)
    assert by_name["a5"]["signal"] in (9, 12)
    assert by_name["a8"]["reason"] == "COMPLETED"
    assert by_name["a9"]["reason"] == "OUT_OF_MEMORY"
    assert all(s["ended_at"] >= s["started_at"] for s in by_name.values())
