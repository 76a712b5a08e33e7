"""Killed at every named point, on the real cluster: nothing lost, no attempt run twice.

One run for each point and seed: a few experiments of several shapes, among them one that exits
with 3 (and is retried from the dead list), one that is cancelled, and one whose job side is
killed in its first attempt. The gateway, or the job side, is killed with SIGKILL at the point
and goes on. What ran is counted from a ledger that the payloads append to.

HPCRUNNER_CRASH_SEEDS=3 runs each point with three seeds, HPCRUNNER_CRASH_POINTS=dispatch only
those in whose name that is found; ``-s`` shows the table.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.crashpoint import GATEWAY_POINTS, JOB_POINTS, PREPARING_POINTS, VARIABLE

pytestmark = pytest.mark.slurm

SEEDS = int(os.environ.get("HPCRUNNER_CRASH_SEEDS", "1"))
ONLY = os.environ.get("HPCRUNNER_CRASH_POINTS", "")
AT_ONCE = 6
PATIENCE = 240.0
# Points that are only passed after a crash somewhere else.
FIRST = {
    "dispatch.settled": "dispatch.batch_begun",
    "dispatch.batch_resumed": "dispatch.batch_begun",
}
# Points that every run passes more than once, so that the seed may choose which time.
OFTEN = {
    "dispatch.folder_written": 2,
    "dispatch.batch_begun": 2,
    "dispatch.submitted": 2,
    "dispatch.adopted": 2,
    "track.judged": 3,
    "track.ended": 3,
}
# Nothing is built here; tests/job kills a build half way.
LEFT_OUT = {"job.environment_built"}
SIGNALS = {"gateway.reloaded": signal.SIGHUP, "gateway.drained": signal.SIGTERM}

# A node that failed is kept off, which is refused where there is no other.
ON_ONE_NODE = {"dispatch.refused"}
EVERY_NODE = {"  - name: cpu # n2": "  - name: low\n    qos: low"}

PAYLOAD = """
import os, signal, sys, time
mode, ledger = sys.argv[1:3]
attempt = os.environ["STUDIOML_ATTEMPT"]
line = f"{mode} {os.environ['STUDIOML_EXPERIMENT']} {attempt}\\n".encode()
fd = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
os.write(fd, line)
os.fsync(fd)
if mode == "crash" and attempt == "1":
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
if mode == "long":
    time.sleep(600)
sys.exit(3 if mode == "exit" else 0)
"""
ENDINGS = {"well": "SUCCEEDED", "crash": "SUCCEEDED", "exit": "FAILED", "long": "CANCELLED"}


@dataclass(frozen=True)
class Result:
    point: str
    seed: int
    backend: str
    crashed: bool
    lost: int
    doubled: int
    wrong: tuple[str, ...]
    runs: int
    seconds: float

    def row(self) -> str:
        return (
            f"{self.point:<26} {self.seed:>4} {self.backend:<7} "
            f"{'yes' if self.crashed else 'NO':<8} {self.runs:>4} {self.lost:>4} "
            f"{self.doubled:>7} {len(self.wrong):>5} {self.seconds:>5.0f} s"
        )


@dataclass
class Run:
    """One flow that is killed once."""

    flow: Any
    point: str
    seed: int

    def __post_init__(self) -> None:
        self.random = random.Random(f"{self.point}-{self.seed}")
        self.marks = self.flow.folder / "marks"
        self.ledger = self.flow.folder / "ledger"
        self.job_side = self.point in JOB_POINTS
        self.well = self.random.randint(2, 4)

    def crash(self, point: str) -> str:
        count = self.random.randint(1, OFTEN.get(point, 1))
        return f"{point}:{count}:{self.marks}"

    def result(self) -> Result:
        began = time.monotonic()
        self.prepare()
        keys = self.publish()
        self.drive()
        rows = self.rows()
        ran = [line.split() for line in self.lines()]
        attempts = Counter((name, attempt) for _, name, attempt in ran)
        wrong = [
            f"{mode} {key}: {state} {text}"
            for mode, key in keys
            for found, state, text in rows
            if found == key and state != ENDINGS[mode]
        ]
        ended = {key for key, state, _ in rows if state in ENDINGS.values()}
        return Result(
            point=self.point,
            seed=self.seed,
            backend=self.flow.scheduler,
            crashed=(self.marks / self.point).exists(),
            lost=sum(key not in ended for _, key in keys),
            doubled=sum(count - 1 for count in attempts.values()),
            wrong=tuple(wrong),
            runs=len(ran),
            seconds=time.monotonic() - began,
        )

    def prepare(self) -> None:
        crash = f"\nenvironment:\n  {VARIABLE}: '{self.crash(self.point)}'" if self.job_side else ""
        self.flow.write_site(
            **{
                "settle: 15": "settle: 3\nretries: {backoff: 1, infrastructure: 4}" + crash,
                "record_wait: 5": "record_wait: 3",
                **({} if self.point in ON_ONE_NODE else EVERY_NODE),
            }
        )
        self.marks.mkdir()
        self.marks.chmod(0o777)

    def publish(self) -> list[tuple[str, str]]:
        modes = ["well"] * self.well + ["exit", "crash", "long"]
        work = [
            {
                "args": [mode, str(self.ledger)],
                # Three shapes, so that there are several batches.
                "cpus": {"crash": 2, "exit": 3}.get(mode, 1),
            }
            for mode in modes
        ]
        return list(zip(modes, self.flow.publish(PAYLOAD, *work), strict=True))

    def drive(self) -> None:
        """Gateways one after the other until one has nothing left to do."""
        stages = [] if self.job_side else [*filter(None, [FIRST.get(self.point)]), self.point]
        deadline = time.monotonic() + PATIENCE
        asked: set[str] = set()
        while True:
            env = {VARIABLE: self.crash(stages[0])} if stages else {}
            gateway = self.gateway(env)
            try:
                while gateway.poll() is None:
                    assert time.monotonic() < deadline, self.flow.log()
                    self.act(asked)
                    time.sleep(0.2)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(gateway.pid, signal.SIGKILL)
                gateway.wait()
            if gateway.returncode == 128 + signal.SIGKILL:
                stages.pop(0)
            elif self.point in SIGNALS and "signalled" in asked and stages:
                raise AssertionError(f"{self.point} was not passed:\n{self.flow.log()}")
            else:
                assert gateway.returncode == 0, self.flow.log()
                return

    def gateway(self, env: dict[str, str]) -> subprocess.Popen[bytes]:
        flow, cluster = self.flow, self.flow.cluster
        started: subprocess.Popen[bytes] = cluster.start(
            *(cluster.bin / "hpcrunner", "gateway", "--site", flow.site),
            *("--queue-root", flow.folder / "queue", "--limit-idle-duration", "3s"),
            log=flow.folder / "gateway.log",
            env={"DRMAA_LIBRARY_PATH": cluster.drmaa_library or "", **env},
        )
        return started

    def act(self, asked: set[str]) -> None:
        """What people do meanwhile: a signal, a retry from the dead list, a cancel."""
        ran = {line.split()[0] for line in self.lines()}
        if self.point in SIGNALS and "signalled" not in asked and ran:
            asked.add("signalled")
            holder = (self.flow.folder / "spool" / "gateway.lock").read_text()
            pid = re.search(r"pid (\d+)", holder)
            assert pid is not None
            os.kill(int(pid[1]), SIGNALS[self.point])
        rows = self.rows()
        if "retry" not in asked and any(state == "FAILED" for _, state, _ in rows):
            asked.add("retry")
            self.command("dead", "retry", "--all")
        # All but the long one have ended; the retried one is a row more.
        over = sum(state in ENDINGS.values() for _, state, _ in rows)
        if {"retry", "long"} & asked == {"retry"} and "long" in ran and over == self.well + 3:
            asked.add("long")
            self.command("cancel", "--all")

    def command(self, *words: str) -> None:
        cluster = self.flow.cluster
        cluster.run(cluster.bin / "hpcrunner", *words, "--site", self.flow.site)

    def lines(self) -> list[str]:
        return self.ledger.read_text().splitlines() if self.ledger.exists() else []

    def rows(self) -> list[tuple[str, str, str]]:
        """Key, state and text of every journal row."""
        path = self.flow.folder / "spool" / "journal.db"
        if not path.exists():
            return []
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            try:
                return db.execute("SELECT key, state, text FROM experiments").fetchall()
            except sqlite3.OperationalError:
                return []  # not made yet, or being written


def runs(flow_type: Any, cluster: Any, folder: Path, backends: list[str]) -> Iterator[Run]:
    points = [p for p in (*GATEWAY_POINTS, *JOB_POINTS) if p not in LEFT_OUT and ONLY in p]
    for seed in range(1, SEEDS + 1):
        for number, point in enumerate(points):
            home = folder / f"{point}-{seed}"
            home.mkdir()
            shutil.chown(home, cluster.user)
            backend = backends[(number + seed) % len(backends)]
            yield Run(flow_type(cluster, home, backend), point, seed)


@pytest.mark.timeout(900)
def test_killed_at_any_named_point_nothing_is_lost_and_no_attempt_runs_twice(
    cluster: Any, workdir: Path, flow_type: Any
) -> None:
    backends = ["sbatch", *(["drmaa"] if cluster.drmaa_library else [])]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(Run.result, runs(flow_type, cluster, workdir, backends)))
    print("\npoint                      seed backend killed   runs lost doubled wrong  time")
    for result in results:
        print(result.row())
    assert [r.point for r in results if not r.crashed] == [], "points that no run passed"
    assert [(r.point, r.seed) for r in results if r.lost] == []
    assert [(r.point, r.seed) for r in results if r.doubled] == []
    assert [line for r in results for line in r.wrong] == []


def test_the_list_of_points_is_that_of_the_code() -> None:
    found = subprocess.run(
        ["grep", "-rhoE", r'crashpoint\("[a-z_.]+"\)', "hpcrunner/gateway"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    named = {word.partition('"')[2].partition('"')[0] for word in found}
    listed = {*GATEWAY_POINTS, *PREPARING_POINTS}
    assert {p for p in named if not p.startswith(("drain.", "gc."))} == listed
