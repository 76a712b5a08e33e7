"""A gateway process on the fake commands: no cluster needed, and nothing else is played.

The job side and the payload run for real, on the fake's node; each payload appends a line to a
ledger, which is what "ran once" means here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from deaths import crashpoints
from slurm.cluster import DOWN, UP, Cluster, Fault
from slurm.program import install
from slurm.store import Store

from hpcrunner.client.build import Work
from hpcrunner.client.publish import publish, store_work
from hpcrunner.gateway.experiment import Experiment, State
from hpcrunner.gateway.reader import Reader

FAKES = Path(__file__).parent.parent / "fakes"
PAYLOAD = """
import os, sys, time
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
os.write(fd, (os.environ["STUDIOML_EXPERIMENT"] + "\\n").encode())
if len(sys.argv) > 2:
    time.sleep(float(sys.argv[2]))
"""


@dataclass(frozen=True)
class Row:
    """What the journal says of an experiment."""

    id: str
    state: State
    job_id: str


class Flow:
    """A spool, a queue, a store, the fake cluster with its node, and the gateway's process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = folder / "ledger"
        self.store = Store(str(folder / "cluster"))
        self.store.create(Cluster())
        install(str(folder / "bin"), self.store.path)
        self.site = folder / "site.yaml"
        self.site.write_text(
            yaml.safe_dump(
                {
                    "scheduler": "sbatch",
                    "spool": str(folder / "spool"),
                    "scratch": str(folder / "scratch"),
                    "cache": str(folder / "cache"),
                    "settle": 2,
                    "record_wait": 5,
                    "least_memory": "64M",
                    "limits": {"submit_rate": "100/1s"},
                    "polling": {"floor": 0.5, "ceiling": 1},
                    "partitions": [{"name": "cpu", "max_memory": "8G"}],
                }
            )
        )
        for name in ("scratch", "code"):
            (folder / name).mkdir()
        (folder / "code" / "run.py").write_text(PAYLOAD)
        self.environment = {
            **{name: os.environ[name] for name in ("HOME", "USER") if name in os.environ},
            "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
        }
        self.processes: list[subprocess.Popen[bytes]] = []
        self.gateway: subprocess.Popen[bytes] | None = None
        self._start([sys.executable, "-m", "slurm.node", self.store.path], PYTHONPATH=str(FAKES))

    def _start(self, argv: list[str], **more: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                argv, env={**self.environment, **more}, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def start_gateway(self, **more: str) -> subprocess.Popen[bytes]:
        code = "from hpcrunner.cli.main import main; main()"
        argv = [sys.executable, "-c", code, "gateway", "--site", str(self.site)]
        argv += ["--queue-root", str(self.folder / "queue"), "--queue-match", "^local_"]
        self.gateway = self._start(argv, **more)
        return self.gateway

    def publish(self, count: int, *args: str) -> list[str]:
        keys = []
        for _ in range(count):
            work = Work("run.py", args=(str(self.ledger), *args))
            key, body = store_work(work, self.folder / "code", self.folder / "store")
            publish(self.folder / "queue" / "local_model", body)
            keys.append(key)
        return keys

    def fault(self, *faults: Fault) -> None:
        with self.store.open() as cluster:
            cluster.faults += faults

    def experiments(self) -> list[Experiment]:
        path = self.folder / "spool" / "journal.db"
        if not path.exists():
            return []
        journal = Reader(path)
        try:
            return journal.recent(1000)
        finally:
            journal.close()

    def all_final(self, count: int) -> bool:
        found = self.experiments()
        return len(found) == count and all(e.state.final for e in found)

    def ran(self) -> Counter[str]:
        return Counter(self.ledger.read_text().split() if self.ledger.exists() else [])

    def calls(self) -> Counter[str]:
        with self.store.open() as cluster:
            assert not cluster.complaints
            return Counter(cluster.calls)

    def until(self, holds: Callable[[], Any], seconds: float = 150) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if answer := holds():
                return answer
            time.sleep(0.1)
        raise AssertionError((self.folder / "log").read_text()[-3000:])

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def flow(tmp_path: Path) -> Iterator[Flow]:
    made = Flow(tmp_path)
    yield made
    made.close()


def test_an_array_is_one_submission_and_each_experiment_runs_once(flow: Flow) -> None:
    flow.publish(5)
    flow.start_gateway()
    flow.until(lambda: flow.all_final(5))
    assert {e.state for e in flow.experiments()} == {State.SUCCEEDED}
    assert list(flow.ran().values()) == [1] * 5
    assert flow.calls()["sbatch"] == 1


def test_a_submission_that_was_taken_and_then_timed_out_is_adopted(flow: Flow) -> None:
    flow.fault(Fault("sbatch", "socket_after"))
    flow.publish(2)
    flow.start_gateway()
    flow.until(lambda: flow.all_final(2))
    assert {e.state for e in flow.experiments()} == {State.SUCCEEDED}
    assert list(flow.ran().values()) == [1, 1]
    assert flow.calls()["sbatch"] == 1


@pytest.mark.parametrize("kind", ["banner", "garbage", "silent"])
def test_whatever_a_wrapper_makes_of_the_answer_the_job_is_found(flow: Flow, kind: str) -> None:
    flow.fault(Fault("sbatch", kind))
    flow.publish(1)
    flow.start_gateway()
    flow.until(lambda: flow.all_final(1))
    assert list(flow.ran().values()) == [1]
    assert flow.calls()["sbatch"] == 1


def test_a_running_experiment_is_cancelled(flow: Flow) -> None:
    flow.publish(1, "600")
    flow.start_gateway()
    flow.until(lambda: flow.ran() and flow.experiments()[0].job_id)
    (e,) = flow.experiments()
    code = "from hpcrunner.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "cancel", "--site", str(flow.site), e.id],
        env=flow.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    flow.until(lambda: flow.all_final(1))
    assert flow.experiments()[0].state is State.CANCELLED


def test_work_goes_on_after_the_controller_was_away(flow: Flow) -> None:
    with flow.store.open() as cluster:
        cluster.controller = DOWN
    flow.publish(2)
    flow.start_gateway()
    flow.until(lambda: flow.calls()["sbatch"] >= 1)
    with flow.store.open() as cluster:
        cluster.controller = UP
    flow.until(lambda: flow.all_final(2))
    assert list(flow.ran().values()) == [1, 1]


# Those that a gateway passes which is given two experiments and one of them to cancel.
PASSED = [
    name
    for name in crashpoints()
    if name.startswith(("intake.", "dispatch.", "track.", "gateway.locked", "gateway.taken"))
    and name not in ("dispatch.refused", "track.retried")
]


@pytest.mark.parametrize("point", PASSED)
def test_a_gateway_killed_at_a_named_place_runs_each_experiment_once(
    flow: Flow, point: str
) -> None:
    if point in ("dispatch.settled", "dispatch.batch_resumed"):
        flow.fault(Fault("sbatch", "socket_timeout"))
    flow.publish(2)
    marks = flow.folder / "crashed"
    marks.mkdir()
    dead = flow.start_gateway(HPCRUNNER_CRASH=f"{point}:1:{marks}")
    flow.until(lambda: dead.poll() is not None)
    assert dead.returncode == -signal.SIGKILL
    assert [mark.name for mark in marks.iterdir()] == [point]
    flow.start_gateway()
    flow.until(lambda: flow.all_final(2))
    assert {e.state for e in flow.experiments()} == {State.SUCCEEDED}
    assert list(flow.ran().values()) == [1, 1]
