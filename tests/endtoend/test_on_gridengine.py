"""The whole way on a real Grid Engine, as an ordinary user with a gateway of their own."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import hpcrunner
from hpcrunner.demo.run import WORK

pytestmark = pytest.mark.gridengine

ROOT = Path(__file__).parents[2]
SAMPLES = Path(hpcrunner.__file__).parent / "demo" / "samples"
SITE = """\
extends: generic-gridengine
spool: {spool}
account: {project}
drmaa:
  library: {library}
partitions:
  - name: all.q
    max_time: 1-00:00:00
    max_cpus: 8
    gpus: [{{memory: 16G, count: 4}}]
defaults:
  memory: 800M
  time_limit: 00:30:00
retries: {{backoff: 0, infrastructure: 2}}
limits: {{submit_rate: 50/1s}}
kill_wait: {notify}
staging_allowance: 00:02:00
settle: 5
record_wait: 3
lost_after: 60
accounting: {{wait: 3}}
polling: {{floor: 0.5, ceiling: 1}}
"""
# A job of two CPUs dies in the middle of its payload, and Grid Engine is asked to start it again.
DIES_ONCE = """\
if [ "$RESTARTED" = 0 ] && [ "$NSLOTS" = 2 ]; then
  {python} -I -m hpcrunner.job "$PWD" 1 &
  until grep -qs " $! " {ledger}; do sleep 0.2; done
  kill -9 $!
  exit 99
fi
"""
# What its arguments ask for, and a line in a ledger for each start.
PAYLOAD = """
import os, signal, sys, time
what, folder = sys.argv[1:]
fd = os.open(f"{folder}/ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
ours = {k: v for k, v in os.environ.items() if k in ("JOB_ID", "RESTARTED", "NSLOTS")}
os.write(fd, f"{what} {os.getppid()} {ours}\\n".encode())
if what == "sleep" or (what == "again" and os.environ["RESTARTED"] == "0"):
    time.sleep(600)
if what == "hold":
    while not os.path.exists(f"{folder}/go"):
        time.sleep(0.2)
if what == "dies" and not os.path.exists(f"{folder}/died"):
    open(f"{folder}/died", "w").close()
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)
if what == "memory":
    hog = bytearray(900 << 20)
if what == "ninety-nine":
    sys.exit(99)
print("well")
"""


@dataclass(frozen=True)
class Cell:
    """A flow on Grid Engine: the user's environment is what a site's settings.sh makes."""

    flow: Any

    @property
    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = self.flow.cluster.facts["gridengine"]
        return found

    @property
    def environ(self) -> dict[str, str]:
        path = f"{self.facts['binaries']}:{self.flow.cluster.bin}:/usr/bin:/bin"
        return {**self.facts["environment"], "PATH": path}

    def write_site(self, *, prologue: str = "") -> None:
        text = SITE.format(
            spool=self.flow.folder / "spool",
            project=self.facts["project"],
            library=self.facts["drmaa_library"],
            notify=self.facts["notify_seconds"],
        )
        if prologue:
            lines = "".join(f"    {line}\n" for line in prologue.splitlines())
            text += f"requeue: true\nprologue:\n  - |\n{lines}"
        self.flow.site.write_text(text)

    def publish(self, *whats: str, **fields: Any) -> list[str]:
        arguments = [str(self.flow.folder)]
        work = [{"args": [what, *arguments], **fields.get(what, {})} for what in whats]
        keys: list[str] = self.flow.publish(PAYLOAD, *work)
        return keys

    @contextmanager
    def gateway(self, *options: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
        process = self.flow.gateway(*options, env={**self.environ, **environ})
        try:
            yield process
        finally:
            process.terminate()  # which runuser hands on; a gateway that has ended hears nothing
            process.wait(150)

    def command(self, *words: str | Path) -> str:
        return str(self.flow.cluster.run(*words, env=self.environ).stdout)

    def states(self) -> dict[str, str]:
        return {e["key"]: e["state"] for e in self.flow.status()}

    def ledger(self) -> list[tuple[str, int, dict[str, str]]]:
        path = self.flow.folder / "ledger"
        lines = path.read_text().splitlines() if path.exists() else []
        rows = (line.split(" ", 2) for line in lines)
        return [(what, int(pid), eval(ours)) for what, pid, ours in rows]

    def runs(self) -> Counter[str]:
        return Counter(what for what, *_ in self.ledger())


@pytest.fixture
def cell(flow_type: Any, cluster: Any, workdir: Path) -> Cell:
    if not cluster.facts.get("gridengine"):
        pytest.skip("no Grid Engine here: 'make cluster' says why")
    made = Cell(flow_type(cluster, workdir, "gridengine"))
    made.write_site()
    return made


def until(holds: Callable[[], Any], seconds: float = 200) -> Any:
    end = time.monotonic() + seconds
    while not (answer := holds()):
        assert time.monotonic() < end
        time.sleep(0.3)
    return answer


@contextmanager
def without(server: str) -> Iterator[None]:
    """One of the two daemons killed meanwhile."""
    dev = [sys.executable, "-m", "dev.cluster"]
    subprocess.run([*dev, "kill", server], cwd=ROOT, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run([*dev, "start", server], cwd=ROOT, check=True, capture_output=True)


def test_grid_engine_carries_the_demo(cell: Cell) -> None:
    workspace = cell.flow.folder / "workspace"
    shutil.copytree(SAMPLES, workspace, ignore=shutil.ignore_patterns("__pycache__"))
    work = [
        {"filename": w.filename, "args": list(w.args), "max_duration": w.max_duration, "cpus": 2}
        for w in WORK
    ]
    keys = cell.flow.publish("", *work)
    with cell.gateway("--limit-tasks", "3") as gateway:
        assert gateway.wait(300) == 0, cell.flow.log()
    told = {e["key"]: e for e in cell.flow.status()}
    train, fail, endless = (told[key] for key in keys)
    assert train["state"] == "SUCCEEDED"
    assert (fail["state"], fail["reason"], fail["exit_code"]) == ("FAILED", "PAYLOAD_EXIT", 1)
    assert (endless["state"], endless["reason"]) == ("FAILED", "MAX_DURATION")
    assert train["node"] == cell.facts["host"]
    text = cell.command(
        *(cell.flow.cluster.bin / "hpcrunner", "logs", train["id"], "--site", cell.flow.site)
    )
    assert "loss" in text


def test_every_ending_on_grid_engine_is_told_and_none_runs_twice(cell: Cell) -> None:
    """Cancelled, killed, started again, out of memory, with a status that asks for more."""
    ledger = cell.flow.folder / "ledger"
    python = cell.flow.cluster.bin / "python"
    cell.write_site(prologue=DIES_ONCE.format(python=python, ledger=ledger))
    names = ("ninety-nine", "memory", "dies", "sleep", "wait", "again")
    # What asks for more slots comes first where both would fit, so it comes later: below.
    wait = {"cpus": 8, "queue": "../later/local_wait"}
    shapes = {"sleep": {"cpus": 3, "gpus": 1}, "wait": wait, "again": {"cpus": 2}}
    published = cell.publish(*names, **shapes)
    keys = dict(zip(names, published, strict=True))
    hpcrunner_ = cell.flow.cluster.bin / "hpcrunner"
    with cell.gateway("--limit-tasks", "6") as gateway:
        until(lambda: cell.runs()["sleep"])
        later = cell.flow.folder / "later" / "local_wait"
        later.rename(cell.flow.folder / "queue" / "local_wait")
        until(lambda: cell.states().get(keys["wait"]) == "PENDING")
        told = {e["key"]: e for e in cell.flow.status()}
        for name in ("wait", "sleep"):
            cell.command(hpcrunner_, "cancel", told[keys[name]]["id"], "--site", cell.flow.site)
        assert gateway.wait(300) == 0, cell.flow.log()
    told = {e["key"]: e for e in cell.flow.status()}
    seen = {name: (told[key]["state"], told[key]["reason"]) for name, key in keys.items()}
    assert seen == {
        "ninety-nine": ("FAILED", "PAYLOAD_EXIT"),
        "memory": ("FAILED", "PAYLOAD_EXIT"),  # the limit is of address space: MemoryError
        "dies": ("SUCCEEDED", "COMPLETED"),
        "sleep": ("CANCELLED", "CANCELLED"),
        "wait": ("CANCELLED", "CANCELLED"),
        "again": ("SUCCEEDED", "COMPLETED"),
    }
    assert told[keys["ninety-nine"]]["exit_code"] == 99
    assert "MemoryError" in told[keys["memory"]]["text"]
    # What was killed without a word was made again, as another attempt or the same; once.
    assert cell.runs() == {"ninety-nine": 1, "memory": 1, "dies": 2, "sleep": 1, "again": 2}
    assert (told[keys["dies"]]["attempt"], told[keys["again"]]["attempt"]) == (2, 1)
    assert {ours["NSLOTS"] for what, _, ours in cell.ledger() if what == "sleep"} == {"3"}


def test_nothing_ends_or_doubles_because_a_part_is_away(cell: Cell) -> None:
    """The gateway dies between submission and journal; then the master dies."""
    marks = cell.flow.folder / "marks"
    cell.publish(*["hold"] * 4)
    marks.mkdir()
    marks.chmod(0o777)
    with cell.gateway(HPCRUNNER_CRASH=f"dispatch.submitted:1:{marks}") as gateway:
        assert gateway.wait(150) == 128 + signal.SIGKILL  # in runuser's words
    assert set(cell.states().values()) == {"SUBMITTING"}
    with cell.gateway():
        until(lambda: cell.runs()["hold"] == 4)
        until(lambda: set(cell.states().values()) == {"RUNNING"})
        with without("qmaster"):
            until(lambda: "qstat: failed" in cell.flow.log())
            assert set(cell.states().values()) == {"RUNNING"}
        until(lambda: "qstat answers again" in cell.flow.log())
        (cell.flow.folder / "go").touch()
        records = cell.flow.folder / "spool" / "batches"
        until(lambda: len(list(records.glob("*/records/*.json"))) == 4)
        # The host's daemon tells a master that was away of ended jobs minutes later (seen with
        # 8.1.9). An operator who does not wait for that takes them out by force.
        job = cell.flow.status()[0]["job_id"].partition(".")[0]

        def taken_out() -> bool:
            # Again and again: the master that is just back may hear nothing for a moment.
            subprocess.run(["qdel", "-f", job], env=cell.environ, check=False, capture_output=True)
            return set(cell.states().values()) == {"SUCCEEDED"}

        until(taken_out)
    told = cell.flow.status()
    assert {e["state"] for e in told} == {"SUCCEEDED"}, cell.flow.log()[-3000:]
    assert {e["attempt"] for e in told} == {1}
    assert cell.runs() == {"hold": 4}
    # One array, submitted once.
    assert len({e["job_id"].partition(".")[0] for e in told}) == 1
