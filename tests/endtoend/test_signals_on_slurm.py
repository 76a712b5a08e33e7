"""Time, signals and preemption on a real Slurm, submitted by sbatch and through DRMAA."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slurm

# Counts in its model as far as it is asked to, and saves at the signal. Its first run of all
# counts one and waits; every later run counts one more and ends.
RESUMES = """
import os, signal, sys, time
path = "../modeldir/count"
count = int(open(path).read()) if os.path.exists(path) else 0
def save(*_):
    open(path, "w").write(str(count + 1))
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
first = count == 0
print("begins at", count, "attempt", os.environ["STUDIOML_ATTEMPT"], "restarts",
      os.environ["STUDIOML_RESTARTS"], flush=True)
time.sleep(600 * first)
open(path, "w").write(str(count + 1))
"""
SAVES = """
import os, signal, sys, time
def save(*_):
    open("../modeldir/saved", "w").write("in time")
    sys.exit(0)
signal.signal(signal.{name}, save)
print("ready", os.getpid(), flush=True)
time.sleep(600)
"""
# A worker of it is too greedy, and it makes nothing of that.
GREEDY = """
import subprocess, sys
worker = subprocess.run([sys.executable, "-c", "hog = bytearray(1_600_000_000)"])
print("worker ended with", worker.returncode)
"""
LOW_FIRST = {"partitions:\n": "partitions:\n  - {name: low, max_time: 1-00:00:00, qos: low}\n"}
QUICK = "retries: {backoff: 1}\n"
NO_RETRY = "retries: {infrastructure: 0}\n"


def until(holds: Callable[[], Any], seconds: float = 150) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := holds():
            return answer
        time.sleep(0.5)
    raise AssertionError(f"{holds} never held")


def site(flow: Any, more: str = "", **changes: str) -> None:
    flow.write_site(**changes)
    flow.site.write_text(flow.site.read_text() + more)


@contextmanager
def running(flow: Any, text: str) -> Iterator[dict[str, Any]]:
    """A gateway, and what is known of the experiment once its log holds ``text``."""
    process = flow.gateway("--limit-tasks", "1")
    try:
        yield until(lambda: seen(flow, text))
        assert process.wait(240) == 0, flow.log()[-3000:]
    finally:
        process.kill()


def seen(flow: Any, text: str) -> dict[str, Any] | None:
    for brief in flow.status():
        told: dict[str, Any] = flow.status(brief["key"])[0]
        if told["log"] and Path(told["log"]).exists() and text in Path(told["log"]).read_text():
            return told
    return None


def preempt(flow: Any, job: str) -> None:
    """Ask for a CPU of the job's node, all of which it has, by a QOS that goes first."""
    node = _output("squeue", "-h", "-j", job, "-o", "%N").strip()
    flow.cluster.run(
        *f"sbatch -p short --qos=high -w {node} -n1 --mem=100 --time=1 -o /dev/null".split(),
        "--wrap=sleep 5",
    )


def saved(flow: Any, key: str, tag: str) -> str:
    """The one file of a stored artifact, as text."""
    (path,) = flow.folder.glob(f"store/**/{key}/{tag}.tar")
    return subprocess.run(["tar", "-xOf", path], capture_output=True, text=True, check=True).stdout


def test_a_preempted_job_that_is_requeued_goes_on_from_what_it_saved(flow: Any) -> None:
    site(flow, QUICK + "requeue: true\n", **LOW_FIRST)
    (key,) = flow.publish(RESUMES, {"cpus": 8, "ram": "500m"})
    with running(flow, "begins at 0") as told:
        job = told["job_id"]
        preempt(flow, job)
        until(
            lambda: _output("squeue", "-h", "-j", job, "-o", "%T %r").strip() == "PENDING BeginTime"
        )
        # Slurm lets a requeued job wait for two minutes.
        flow.cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    (told,) = flow.status(key)
    assert (told["state"], told["attempt"]) == ("SUCCEEDED", 1), told
    log = Path(told["log"]).read_text()
    assert "saved" in log
    assert told["last_lines"] == ["begins at 1 attempt 1 restarts 1"], log
    assert saved(flow, key, "modeldir") == "2"
    folder = Path(told["log"]).parents[1]
    assert sorted(os.listdir(folder / "records")) == ["1.json"]
    assert sorted(os.listdir(folder / "claims")) == ["1", "1.1"]


def test_a_preempted_job_that_is_not_requeued_is_preempted_and_its_next_attempt_goes_on(
    flow: Any,
) -> None:
    site(flow, QUICK, **LOW_FIRST)
    (key,) = flow.publish(RESUMES, {"cpus": 8, "ram": "500m"})
    with running(flow, "begins at 0") as told:
        preempt(flow, told["job_id"])
    (told,) = flow.status(key)
    assert (told["state"], told["attempt"]) == ("SUCCEEDED", 2), told
    assert told["attempts"][0]["reason"] == "PREEMPTED", told
    assert told["last_lines"] == ["begins at 1 attempt 2 restarts 0"]
    assert saved(flow, key, "modeldir") == "2"


def test_the_time_limit_is_announced_and_met_in_time(flow: Any) -> None:
    # Half of a job is its payload's in any case: Slurm itself never comes to end it.
    one_minute = {"time_limit: 00:30:00": "time_limit: 00:01:00"}
    site(flow, NO_RETRY + "grace: 45\npayload_signal: USR1\n", **one_minute)
    (key,) = flow.publish(SAVES.format(name="SIGUSR1"), {"cpus": 1, "ram": "500m"})
    flow.finish(1)
    (told,) = flow.status(key)
    assert (told["state"], told["reason"]) == ("FAILED", "TIME_LIMIT"), told
    assert told["text"].startswith("reached the job's time limit of 1m"), told
    assert saved(flow, key, "modeldir") == "in time"
    announced = "SIGUSR1 announces the job's time limit" in Path(told["log"]).read_text()
    assert announced is (flow.scheduler == "sbatch")  # slurm-drmaa cannot carry --signal


def test_scancel_by_anybody_gives_the_payload_its_grace(flow: Any) -> None:
    site(flow, NO_RETRY)
    (key,) = flow.publish(SAVES.format(name="SIGTERM"), {"ram": "500m"})
    with running(flow, "ready") as told:
        flow.cluster.run("scancel", told["job_id"])
    (told,) = flow.status(key)
    assert (told["state"], told["reason"]) == ("CANCELLED", "CANCELLED"), told
    assert saved(flow, key, "modeldir") == "in time"


def test_memory_that_a_worker_took_is_told_even_where_there_is_no_accounting(flow: Any) -> None:
    if flow.cluster.facts["slurm"]["memory_enforced_by"] != "cgroup":
        pytest.skip("this machine's Slurm holds jobs to their memory without the kernel")
    site(flow, NO_RETRY, **{"mode: slurmdbd": "mode: none"})
    (key,) = flow.publish(GREEDY, {"ram": "1GiB"})
    flow.finish(1)
    (told,) = flow.status(key)
    assert (told["state"], told["reason"]) == ("FAILED", "OUT_OF_MEMORY"), told
    assert "the kernel killed a process of it at the job's limit of 1.1 GB" in told["text"]
    assert told["last_lines"] == ["worker ended with -9"]


def test_a_job_side_that_is_killed_takes_its_payload_with_it(flow: Any) -> None:
    site(flow, NO_RETRY)
    (key,) = flow.publish(SAVES.format(name="SIGTERM"), {"ram": "500m"})
    with running(flow, "ready") as told:
        payload = int(Path(told["log"]).read_text().split("ready ")[1].split()[0])
        (job_side,) = _output("ps", "-o", "ppid=", "-p", str(payload)).split()
        os.kill(int(job_side), signal.SIGKILL)
        until(lambda: not Path(f"/proc/{payload}").exists())
    (told,) = flow.status(key)
    assert (told["state"], told["reason"]) == ("FAILED", "SCHEDULER_FAILED"), told
    assert "signal 9" in told["text"]


def _output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=60).stdout
