"""What a payload gets to hear when it is to end, and how long it has."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpcrunner.job.process import own_start
from hpcrunner.job.stopwatch import says_stopped
from hpcrunner.request.plan import PlannedArtifact
from hpcrunner.request.reasons import Reason

if TYPE_CHECKING:
    from conftest import Node

# Saves itself at the signal that is named, with a child that knows nothing of signals.
SAVES = """
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
def save(*_):
    alive = child.poll() is None
    open("../modeldir/saved", "w").write("with its child" if alive else "alone")
    sys.exit(0)
signal.signal(signal.{name}, save)
print("ready", flush=True)
while True: time.sleep(0.05)
"""
# Hears everything, obeys nothing.
STUBBORN = """
import signal, time
for name in ("SIGUSR1", "SIGINT", "SIGTERM"):
    signal.signal(signal.Signals[name], lambda n, _: print(signal.Signals(n).name, flush=True))
open("../modeldir/half", "w").write("half")
print("ready", flush=True)
while True: time.sleep(0.05)
"""


@pytest.mark.parametrize("word", ["USR1", "INT"])
def test_the_sites_signal_comes_first_and_to_the_payload_alone(node: Node, word: str) -> None:
    node.write(node.script(SAVES.format(name=f"SIG{word}")), payload_signal=word)
    process = node.start()
    node.wait_until(lambda: "ready\n" in node.log())
    process.send_signal(signal.SIGTERM)
    assert process.wait(150) == 143
    # Exit code 0 at a stop is no success, and what was saved is kept.
    assert (node.record().reason, node.record().exit_code) == (Reason.CANCELLED, 0)
    assert node.members("modeldir.tar") == {"saved": b"with its child"}


def test_a_payload_that_obeys_nothing_hears_the_signal_then_sigterm_and_is_killed(
    node: Node,
) -> None:
    node.write(node.script(STUBBORN), payload_signal="USR1", payload_grace=4.0)
    process = node.start()
    node.wait_until(lambda: "ready\n" in node.log())
    process.send_signal(signal.SIGINT)
    process.wait(150)
    assert node.record().last_lines == ("ready", "SIGUSR1", "SIGTERM")
    assert node.record().signal == signal.SIGKILL
    assert node.members("modeldir.tar") == {"half": b"half"}


def test_the_time_limit_gives_the_same_signal_and_is_its_own_reason(node: Node) -> None:
    script = SAVES.format(name="SIGUSR1")
    node.write(node.script(script), payload_signal="USR1", time_limit=16.0, grace=4.0)
    assert node.start().wait(150) == 124
    assert (node.record().reason, node.record().exit_code) == (Reason.TIME_LIMIT, 0)
    assert node.members("modeldir.tar") == {"saved": b"with its child"}


def test_everything_fits_between_a_sigterm_and_the_kill_that_follows(node: Node) -> None:
    # The payload would take ten seconds; the scheduler kills in eight.
    node.write(node.script(STUBBORN), kill_wait=8.0)
    process = node.start(SLURM_JOB_ID="7")
    node.wait_until(lambda: "ready\n" in node.log())
    process.send_signal(signal.SIGTERM)
    process.wait(150)
    stop = next(e["time"] for e in node.events() if e["event"] == "saving")
    assert node.record().reason is Reason.CANCELLED
    assert node.record().ended_at - stop < 4.0
    assert {s.tag for s in node.record().saved} == {"output", "modeldir"}


def test_a_second_look_at_the_clock_shortens_a_long_grace_when_the_kill_comes_near(
    node: Node,
) -> None:
    # The client stops it, with minutes of grace; then the scheduler's own SIGTERM comes.
    node.write(node.script(STUBBORN), payload_grace=300.0, kill_wait=8.0)
    process = node.start(SLURM_JOB_ID="7")
    node.wait_until(lambda: "ready\n" in node.log())
    process.send_signal(signal.SIGINT)
    node.wait_until(lambda: "SIGTERM" in node.log().split("ready", 1)[1])
    process.send_signal(signal.SIGTERM)
    process.wait(150)
    assert node.record().signal == signal.SIGKILL
    assert {s.tag for s in node.record().saved} == {"output", "modeldir"}


def test_an_announced_limit_is_waited_for(node: Node) -> None:
    script = "import time; print('ready', flush=True); time.sleep(1); print('whole', flush=True)"
    node.write(node.script(script), time_limit=60.0)
    process = node.start()
    node.wait_until(lambda: "ready\n" in node.log())
    process.send_signal(signal.SIGUSR1)
    assert process.wait(150) == 0
    assert "SIGUSR1 announces the job's time limit" in node.log()
    assert node.record().last_lines == ("ready", "whole")


def test_an_announced_limit_that_no_plan_knows_ends_the_payload(node: Node) -> None:
    node.write(node.script(SAVES.format(name="SIGTERM")))
    process = node.start()
    node.wait_until(lambda: "ready\n" in node.log())
    process.send_signal(signal.SIGUSR1)
    assert process.wait(150) == 124
    assert node.record().reason is Reason.TIME_LIMIT
    assert "SIGUSR1" in node.record().text


def test_a_usr1_long_before_the_limit_is_somebody_elses(node: Node) -> None:
    node.write(node.script(SAVES.format(name="SIGTERM")), time_limit=3600.0)
    process = node.start()
    node.wait_until(lambda: "ready\n" in node.log())
    process.send_signal(signal.SIGUSR1)
    assert process.wait(150) == 143
    assert node.record().text.startswith("cancelled from outside (SIGUSR1)")


def test_the_schedulers_word_on_the_end_is_kept_without_a_limit_in_the_plan(node: Node) -> None:
    node.write(node.script(SAVES.format(name="SIGTERM")), grace=3.0)
    assert node.start(SLURM_JOB_END_TIME=str(int(time.time()) + 6)).wait(150) == 124
    assert node.record().reason is Reason.TIME_LIMIT


def test_the_time_that_modules_took_counts_for_the_limit(node: Node) -> None:
    # The batch script is this process before it becomes the job side.
    node.write(node.script(SAVES.format(name="SIGTERM")), time_limit=8.0, grace=2.0)
    process = node.start_by_script("sleep 3")
    assert process.wait(150) == 124
    record = node.record()
    assert record.reason is Reason.TIME_LIMIT
    stop = next(e["time"] for e in node.events() if e["event"] == "saving")
    assert stop - record.started_at < 5.5


def test_the_start_of_this_process_is_known() -> None:
    now = time.time()
    assert now - 7 * 86400 < own_start(now) < now


def test_a_status_artifact_that_says_stopped_stops_the_run(node: Node) -> None:
    script = f"""
import io, tarfile, time
data = b'{{"key": "k", "status": "Stopped"}}'
with tarfile.open({str(node.store / "_status.tar")!r}, "w") as tar:
    member = tarfile.TarInfo("status.json")
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
time.sleep(3600)
"""
    node.put("_status.tar", {"status.json": '{"key": "k", "status": "running"}'})
    work = node.script(script)
    work = replace(work, artifacts=(*work.artifacts, node.artifact("_status")))
    node.look_every = 0.2
    record = node.run(work)
    assert (record.reason, record.text) == (Reason.CANCELLED, "stopped by the client")
    # It is the client's word, not a result of ours.
    assert {s.tag for s in record.saved} == {"output"}
    assert json.loads(node.members("_status.tar")["status.json"])["status"] == "Stopped"


def test_a_status_that_says_stopped_before_the_start_keeps_it_from_running(node: Node) -> None:
    node.put("_status.tar", {"status.json": '{"key": "k", "status": "stopped"}'})
    work = node.script("print('ran')")
    record = node.run(replace(work, artifacts=(*work.artifacts, node.artifact("_status"))))
    assert (record.reason, record.text) == (Reason.CANCELLED, "stopped by the client")
    assert record.payload_started_at is None


def test_a_status_may_be_the_bare_file(node: Node) -> None:
    (node.store / "status").write_text('{"key": "k", "status": "stopped"}')
    bare = PlannedArtifact("_status", node.location("status"), mutable=False, unpack=False)
    work = node.script("print('ran')")
    record = node.run(replace(work, artifacts=(*work.artifacts, bare)))
    assert (record.reason, record.text) == (Reason.CANCELLED, "stopped by the client")


@pytest.mark.parametrize("content", [None, b"", b"no tar", b"\0" * 1024])
def test_a_status_that_is_missing_or_torn_is_no_stop_and_no_failure(
    node: Node, content: bytes | None
) -> None:
    if content is not None:
        (node.store / "_status.tar").write_bytes(content)
    work = node.script("print('ran')")
    record = node.run(replace(work, artifacts=(*work.artifacts, node.artifact("_status", False))))
    assert record.reason is Reason.COMPLETED, node.log()


def test_a_status_larger_than_it_may_be_is_no_stop(node: Node) -> None:
    node.put("_status.tar", {"status.json": b'{"status": "stopped"}' + b" " * (2 << 20)})
    work = node.script("print('ran')")
    record = node.run(replace(work, artifacts=(*work.artifacts, node.artifact("_status"))))
    assert record.reason is Reason.COMPLETED
    assert [p for p in os.listdir(node.store) if p.startswith("_status")] == ["_status.tar"]


@pytest.mark.parametrize(
    ("content", "stops"),
    [
        (b'{"key": "k", "status": "stopped"}', True),
        (b'{"status": "STOPPED"}', True),
        (b'{"status": "running"}', False),
        (b'{"status": "stop', False),
        (b'{"status": ["stopped"]}', False),
        (b'"stopped"', False),
        (b"[]", False),
        (b"", False),
        (b"\xff\xfe", False),
        (b"[" * 100_000, False),
    ],
)
def test_only_a_whole_status_stops(content: bytes, stops: bool) -> None:
    assert says_stopped(content) is stops


def test_no_process_survives_a_stop(node: Node) -> None:
    node.write(node.script(SAVES.format(name="SIGUSR1")), payload_signal="USR1")
    process = node.start()
    node.wait_until(lambda: "ready\n" in node.log())
    pid = node.event("running")["pid"]
    process.send_signal(signal.SIGTERM)
    process.wait(150)
    sessions = [p.name for p in Path("/proc").iterdir() if p.name.isdigit() and _session(p) == pid]
    assert sessions == []


def _session(process: Path) -> int | None:
    try:
        return os.getsid(int(process.name))
    except (ProcessLookupError, PermissionError):
        return None
