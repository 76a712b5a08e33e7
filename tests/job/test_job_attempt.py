"""Attempts from claim to record, run as the batch script runs them."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpcrunner.job.course import _fault
from hpcrunner.mounts import Mount
from hpcrunner.request.location import Location
from hpcrunner.request.plan import PlannedArtifact
from hpcrunner.request.reasons import Reason

if TYPE_CHECKING:
    from conftest import Node

TRAIN = """
import os, sys
print("args:", sys.argv[1:])
os.makedirs("../modeldir", exist_ok=True)
open("../modeldir/weights", "w").write("learnt")
print("done", file=sys.stderr)
"""

ENDLESS = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open("../modeldir/weights", "w").write("half")
def endless():
    return subprocess.Popen(
        [sys.executable, "-c", "import signal,time;signal.signal(15,1);time.sleep(3600)"],
        start_new_session=True,
    ).pid
pids = [os.getpid(), endless()]
if os.fork() == 0:
    if os.fork() == 0:  # a daemon: its parent is gone at once
        os.setsid()
        print(*pids, os.getpid(), endless(), flush=True)
        time.sleep(3600)
    os._exit(0)
time.sleep(3600)
"""

OBEDIENT = """
import signal, sys, time
def stop(*_):
    open("../modeldir/weights", "w").write("saved in time")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(3600)
"""


def living(pids: list[int]) -> list[int]:
    """Those that run: a zombie of somebody else's does not."""
    result = []
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            continue
        if stat[stat.rindex(b")") + 2 : stat.rindex(b")") + 3] != b"Z":
            result.append(pid)
    return result


def test_a_payload_that_ends_well_leaves_its_output_and_model(node: Node) -> None:
    record = node.run(node.script(TRAIN, "3", "4", "a b"))
    assert record.reason is Reason.COMPLETED, node.log()
    assert record.succeeded
    assert (record.exit_code, record.signal) == (0, None)
    assert record.last_lines == ("args: ['3', '4', 'a b']", "done")
    # The client reads an archive as a file where its only member begins with "./".
    assert node.members("output.tar") == {"./output": b"args: ['3', '4', 'a b']\ndone\n"}
    assert node.members("modeldir.tar") == {"weights": b"learnt"}
    assert {s.tag for s in record.saved} == {"output", "modeldir"}
    assert all(len(s.sha256) == 64 and s.size > 0 for s in record.saved)
    assert record.started_at <= record.payload_started_at <= record.ended_at
    assert "args: ['3', '4', 'a b']" in node.log()


def test_events_tell_the_steps_in_order(node: Node) -> None:
    node.run(node.script(TRAIN))
    steps = ["claimed", "fetching", "environment", "running", "saving", "ended"]
    seen = [event["event"] for event in node.events()]
    assert [event for event in seen if event in steps] == steps
    assert node.event("running")["pid"] > 0


def test_nothing_is_left_on_the_node_unless_the_site_keeps_it(node: Node) -> None:
    node.run(node.script(TRAIN))
    assert os.listdir(node.home.parent) == []


def test_a_kept_folder_has_the_layout_that_the_client_library_expects(node: Node) -> None:
    node.run(node.script(TRAIN), setup={"keep": True})
    root = node.home / "experiments" / "k-1"
    assert sorted(os.listdir(root)) == ["modeldir", "output", "workspace"]


def test_a_failing_payload_ends_with_its_code_and_last_lines_and_is_saved(node: Node) -> None:
    node.write(node.script("print('before')\nopen('../modeldir/w','w').write('x')\n1/0\n"))
    status = node.start().wait(150)
    record = node.record()
    assert status == record.exit_code == 1
    assert record.reason is Reason.PAYLOAD_EXIT
    assert record.last_lines[-1] == "ZeroDivisionError: division by zero"
    assert node.members("modeldir.tar") == {"w": b"x"}
    output = node.members("output.tar")["./output"].decode()
    assert output.splitlines()[-1] == "hpcrunner: ended with exit code 1"


def test_a_payload_that_dies_of_a_signal_is_no_cancellation(node: Node) -> None:
    node.write(node.script("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"))
    assert node.start().wait(150) == 139
    assert node.record().reason is Reason.PAYLOAD_SIGNAL
    assert node.record().signal == signal.SIGSEGV


def test_a_missing_immutable_artifact_ends_the_attempt_before_the_payload(node: Node) -> None:
    experiment = node.script(TRAIN)
    data = PlannedArtifact("data", node.location("gone.tar"), False, True)
    record = node.run(replace(experiment, artifacts=(*experiment.artifacts, data)))
    assert record.reason is Reason.ARTIFACT_NOT_FOUND
    assert "gone.tar" in record.text
    assert record.payload_started_at is None
    # The output is all that a client gets to see of it.
    assert "gone.tar" in node.members("output.tar")["./output"].decode()
    assert not (node.store / "modeldir.tar").exists()


def test_a_mutable_artifact_is_fetched_if_there_and_saved_only_if_changed(node: Node) -> None:
    node.put("modeldir.tar", {"weights": "of the last run"})
    before = (node.store / "modeldir.tar").stat().st_ino
    record = node.run(node.script("print(open('../modeldir/weights').read())"))
    assert record.last_lines == ("of the last run",)
    assert (node.store / "modeldir.tar").stat().st_ino == before
    assert [s.tag for s in record.saved] == ["output"]


def test_max_duration_ends_every_process_and_saves(node: Node) -> None:
    experiment = replace(node.script(ENDLESS), max_duration=4.0)
    node.write(experiment, grace=3.0, payload_grace=2.0)
    status = node.start().wait(150)
    record = node.record()
    assert (status, record.reason) == (124, Reason.MAX_DURATION)
    assert record.text == "reached its max_duration of 4s"
    assert node.members("modeldir.tar") == {"weights": b"half"}
    pids = [int(word) for word in record.last_lines[0].split()]
    assert len(pids) == 4
    assert living(pids) == []


def test_what_a_payload_leaves_running_is_ended_with_it(node: Node) -> None:
    leaves = (
        "import subprocess;print(subprocess.Popen(['sleep','3600'],start_new_session=True).pid)"
    )
    record = node.run(node.script(leaves))
    assert record.reason is Reason.COMPLETED
    assert living([int(record.last_lines[0])]) == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_cancel_gives_the_payload_its_grace_and_saves(node: Node, how: signal.Signals) -> None:
    node.write(node.script(OBEDIENT))
    process = node.start()
    node.wait_until(lambda: "ready\n" in node.log())
    process.send_signal(how)
    assert process.wait(150) == 143
    assert node.record().reason is Reason.CANCELLED
    assert node.members("modeldir.tar") == {"weights": b"saved in time"}


def test_a_payload_that_obeys_the_schedulers_signal_is_cancelled_not_completed(node: Node) -> None:
    node.write(node.script(OBEDIENT))
    process = node.start()
    node.wait_until(lambda: "ready\n" in node.log())
    process.send_signal(signal.SIGSTOP)  # so that the payload is gone before we look
    pid = node.event("running")["pid"]
    os.kill(pid, signal.SIGTERM)
    node.wait_until(lambda: not living([pid]))
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    process.wait(150)
    assert (node.record().reason, node.record().exit_code) == (Reason.CANCELLED, 0)


def test_slurms_signal_to_all_of_a_job_is_not_repeated_at_once(node: Node) -> None:
    node.write(
        node.script("""
import signal, sys, time
def stop(*_):
    signal.signal(signal.SIGTERM, lambda *_: print("twice", flush=True))
    time.sleep(1)  # saves itself
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(3600)
""")
    )
    process = node.start(SLURM_JOB_ID="7")
    node.wait_until(lambda: "ready\n" in node.log())
    for pid in (process.pid, node.event("running")["pid"]):
        os.kill(pid, signal.SIGTERM)
    process.wait(150)
    assert node.record().last_lines == ("ready", "saved")
    assert (node.record().reason, node.record().exit_code) == (Reason.CANCELLED, 0)


def test_a_payload_that_prints_nothing_replaces_the_output_of_the_last_run(node: Node) -> None:
    node.put("output.tar", {"./output": "of the last run"})
    assert node.run(node.script("")).reason is Reason.COMPLETED
    assert node.members("output.tar") == {"./output": b""}


def test_a_cancel_that_hits_the_payload_first_is_still_a_cancel(node: Node) -> None:
    node.write(node.script("import time; print('ready', flush=True); time.sleep(3600)"))
    process = node.start()
    node.wait_until(lambda: "ready\n" in node.log())
    os.kill(node.event("running")["pid"], signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # well within the second for which it is waited for
    process.wait(150)
    assert node.record().reason is Reason.CANCELLED


def test_a_cancel_before_the_payload_ends_the_attempt_at_once(node: Node) -> None:
    experiment = node.script(TRAIN)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/data.tar"
        slow = PlannedArtifact("data", Location("http", "", endpoint=url), False, True)
        node.write(replace(experiment, artifacts=(*experiment.artifacts, slow)))
        process = node.start()
        silent.accept()  # it asks, and is never answered
        process.send_signal(signal.SIGTERM)
        assert process.wait(150) == 143
    assert node.record().reason is Reason.CANCELLED
    assert node.record().payload_started_at is None


def test_the_jobs_time_limit_leaves_time_to_save(node: Node) -> None:
    node.write(node.script(ENDLESS), time_limit=18.0, grace=8.0)
    process = node.start()
    process.wait(150)
    record = node.record()
    assert record.reason is Reason.TIME_LIMIT
    assert record.ended_at - record.started_at < 18.0
    assert node.members("modeldir.tar") == {"weights": b"half"}


def test_an_experiment_whose_lifetime_is_over_is_not_even_fetched(node: Node) -> None:
    experiment = replace(node.script(TRAIN), expires_at=time.time() - 1)
    record = node.run(experiment)
    assert record.reason is Reason.LIFETIME_EXPIRED
    assert node.event("fetching") is None
    assert sorted(os.listdir(node.store)) == ["workspace.tar"]


def test_artifacts_are_saved_while_the_payload_runs(node: Node) -> None:
    script = """
import os, time
open("../modeldir/w", "w").write("1")
open("../retval/retval", "w").write("early")
while not os.path.exists({!r}): time.sleep(0.05)
""".format(str(node.store / "modeldir.tar"))
    experiment = node.script(script, save_interval=0.2)
    retval = node.artifact("retval")
    record = node.run(replace(experiment, artifacts=(*experiment.artifacts, retval)))
    assert record.reason is Reason.COMPLETED
    steps = [(e["event"], e.get("tag")) for e in node.events()]
    end = steps.index(("saving", None))
    # The client takes the first retval it finds for the result: it is written at the end only.
    assert ("saved", "retval") not in steps[:end]
    assert ("saved", "modeldir") in steps[:end]
    assert ("saved", "retval") in steps[end:]
    assert node.members("retval.tar") == {"./retval": b"early"}


def test_an_artifact_may_have_an_interval_of_its_own(node: Node) -> None:
    script = "import os,time\nopen('../modeldir/w','w').write('1')\n" + (
        f"while not os.path.exists({str(node.store / 'modeldir.tar')!r}): time.sleep(0.05)\n"
    )
    experiment = node.script(script, save_interval=3600.0)
    modeldir = node.artifact("modeldir", save_frequency=0.2)
    artifacts = tuple(modeldir if a.tag == "modeldir" else a for a in experiment.artifacts)
    assert node.run(replace(experiment, artifacts=artifacts)).reason is Reason.COMPLETED


def test_results_that_do_not_get_out_are_no_success(node: Node) -> None:
    experiment = node.script("open('../modeldir/w','w').write('1')")
    (node.store / "file").touch()
    lost = node.artifact("modeldir", location=node.location("file/below/modeldir.tar"))
    artifacts = tuple(lost if a.tag == "modeldir" else a for a in experiment.artifacts)
    node.write(replace(experiment, artifacts=artifacts))
    status = node.start().wait(150)
    record = node.record()
    if record.payload_started_at is not None:  # else the store refused it on the way in already
        assert (status, record.reason) == (74, Reason.UPLOAD_FAILED)
    assert "modeldir" in record.text


def test_a_duplicate_ends_at_once_and_touches_nothing(node: Node) -> None:
    node.run(node.script(TRAIN))
    before = {p: p.stat().st_mtime_ns for p in node.batch.rglob("*") if p.suffix != ".out"}
    assert node.start(SLURM_JOB_ID="99").wait(150) == 0
    assert "duplicate" in node.log().splitlines()[-1]
    after = {p: p.stat().st_mtime_ns for p in node.batch.rglob("*") if p.suffix != ".out"}
    assert after == before


def test_of_two_jobs_at_once_one_runs_the_payload(node: Node) -> None:
    ran = node.folder / "ran"
    node.write(node.script(f"open({str(ran)!r}, 'a').write('x')"))
    for process in [node.start(SLURM_JOB_ID=str(n)) for n in range(4)]:
        assert process.wait(150) == 0
    assert ran.read_text() == "x"


def test_a_requeued_job_runs_its_attempt_again(node: Node) -> None:
    node.write(node.script(OBEDIENT))
    first = node.start(SLURM_JOB_ID="7")
    node.wait_until(lambda: "ready\n" in node.log())
    first.send_signal(signal.SIGTERM)  # a preemption
    first.wait(150)
    node.experiment({"train.py": "print('second')"})
    again = node.start(SLURM_JOB_ID="7", SLURM_RESTART_COUNT="1")
    assert again.wait(150) == 0
    assert node.record().reason is Reason.COMPLETED
    assert node.record().last_lines == ("second",)
    # Its ending stands: not even the same job writes another.
    assert node.start(SLURM_JOB_ID="7", SLURM_RESTART_COUNT="2").wait(150) == 0
    assert node.record().last_lines == ("second",)


def test_config_env_reaches_the_payload_and_overrides_nothing_of_the_scheduler(node: Node) -> None:
    config = (
        ("GREETING", "hello '%HOME%' $(id)"),
        ("SLURM_JOB_ID", "0"),
        ("CUDA_VISIBLE_DEVICES", "9"),
        ("STUDIOML_EXPERIMENT", "other"),
    )
    names = [*dict(config), "STUDIOML_HOME", "TMPDIR"]
    script = f"import os, json; print(json.dumps([os.environ.get(n) for n in {names}]))"
    node.write(replace(node.script(script), environment=config))
    node.start(SLURM_JOB_ID="7", SLURM_JOB_GPUS="1", CUDA_VISIBLE_DEVICES="1", HOME="/h").wait(150)
    seen = json.loads(node.record().last_lines[0])
    assert seen[:4] == ["hello '/h' $(id)", "7", "1", "k-1"]
    assert seen[4:] == [str(node.home), str(node.home / "tmp")]


def test_the_payload_sees_neither_our_files_nor_our_signals(node: Node) -> None:
    script = """
import os, signal
names = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if int(n) > 2
         if os.path.exists(f"/proc/self/fd/{n}")]
print([n for n in names if not n.startswith("/proc")], signal.getsignal(signal.SIGTERM))
print(os.getsid(0) == os.getpid(), os.readlink("/proc/self/fd/0"))
"""
    record = node.run(node.script(script))
    assert record.last_lines == ("[] 0", "True /dev/null")


@pytest.mark.parametrize("name", ["../../x", "gone.py", "a\0b", "$(touch pwned).py"])
def test_a_filename_that_cannot_run_is_named_on_one_line(node: Node, name: str) -> None:
    record = node.run(replace(node.script(TRAIN), filename=name))
    assert record.reason is Reason.PAYLOAD_NOT_STARTED
    assert len(record.text.splitlines()) == 1
    assert "filename" in record.text


def test_an_unknown_python_version_names_those_there_are(node: Node) -> None:
    record = node.run(replace(node.script(TRAIN), python_version="3.2"))
    assert record.reason is Reason.ENVIRONMENT_FAILED
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in record.text


def test_a_scratch_folder_that_the_node_lacks_is_the_sites_fault_in_one_line(node: Node) -> None:
    record = node.run(node.script(TRAIN), setup={"scratch": "$NO_SUCH_VARIABLE/x"})
    assert record.reason is Reason.JOB_SIDE_FAULT
    assert "$NO_SUCH_VARIABLE is not set on this node" in record.text


def test_a_damaged_plan_is_one_line_and_claims_nothing(node: Node) -> None:
    node.write(node.script(TRAIN))
    (node.batch / "plan.json").write_text("{")
    assert node.start().wait(150) == 65
    assert len(node.log().splitlines()) == 1
    assert not (node.batch / "claims").exists()


@pytest.mark.parametrize("arguments", [[], ["x"], ["x", "-1"], ["x", "1", "2"]])
def test_wrong_arguments_are_a_usage_error(node: Node, arguments: list[str]) -> None:
    command = [sys.executable, "-I", "-m", "hpcrunner.job", *arguments]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == 64


def test_credentials_stand_in_no_log_event_or_record(node: Node) -> None:
    experiment = node.script("1/0", environment=(("TOKEN", "s3cr3t"),))
    node.run(experiment)
    for path in node.batch.rglob("*"):
        if path.is_file() and path.name != "plan.json":
            assert "s3cr3t" not in path.read_text()


def test_the_clients_record_goes_from_waiting_to_finished(node: Node) -> None:
    location = Location("file", str(node.store / "meta" / "k"))
    (node.store / "meta").mkdir()
    Path(location.key).write_text(json.dumps({"key": "k", "status": "waiting", "extra": [1]}))
    script = f"print(open({location.key!r}).read())"
    record = node.run(replace(node.script(script), record=location))
    during, after = json.loads(record.last_lines[0]), json.loads(Path(location.key).read_text())
    assert (during["status"], after["status"]) == ("running", "finished")
    assert during["time_started"] <= after["time_finished"]
    assert after["extra"] == [1]


def test_a_missing_client_record_is_made_from_the_document(node: Node) -> None:
    location = Location("file", str(node.store / "k"))
    node.run(replace(node.script(TRAIN), record=location, document='{"key": "k"}'))
    after = json.loads(Path(location.key).read_text())
    assert (after["key"], after["status"]) == ("k", "finished")
    assert Path(location.key).stat().st_mode & 0o777 == 0o600


def test_a_client_record_that_cannot_be_written_is_an_event_and_no_failure(node: Node) -> None:
    (node.store / "file").touch()
    location = Location("file", str(node.store / "file" / "below"))
    record = node.run(replace(node.script(TRAIN), record=location))
    assert record.reason is Reason.COMPLETED
    assert node.event("record_failed") is not None


def test_an_experiment_that_the_client_stopped_before_it_began_does_not_run(node: Node) -> None:
    Path(node.store / "k").write_text('{"status": "stopped"}')
    record = node.run(replace(node.script(TRAIN), record=node.location("k")))
    assert (record.reason, record.text) == (Reason.CANCELLED, "stopped by the client")
    assert json.loads((node.store / "k").read_text())["status"] == "stopped"


def test_a_running_experiment_ends_when_the_client_stops_it(node: Node) -> None:
    script = f"""
import time
open({str(node.store / "k")!r}, "w").write('{{"status": "stopped"}}')
time.sleep(3600)
"""
    node.look_every = 0.2
    record = node.run(replace(node.script(script), record=node.location("k")))
    assert (record.reason, record.text) == (Reason.CANCELLED, "stopped by the client")


def test_the_job_side_starts_on_the_standard_library_alone() -> None:
    code = """
import sys
before = set(sys.modules)
import hpcrunner.job.__main__
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(new - sys.stdlib_module_names))
print(*sorted(set(sys.modules) & {"logging", "asyncio", "ctypes", "tarfile", "socket", "email"}))
"""
    command = [sys.executable, "-I", "-c", code]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said == ["hpcrunner", ""]


@pytest.mark.parametrize(("kind", "reason"), [("lustre", "NO_ROOM"), ("xfs", "JOB_SIDE_FAULT")])
def test_a_full_disk_is_the_nodes_fault_where_it_is_the_nodes_own(
    monkeypatch: pytest.MonkeyPatch, kind: str, reason: str
) -> None:
    monkeypatch.setattr("hpcrunner.mounts.mount_of", lambda path: Mount("/", kind))
    ending = _fault(OSError(errno.EDQUOT, "Disk quota exceeded", "/cache/environments/lock"))
    assert (ending.reason.value, "\n" in ending.text) == (reason, False)
    assert "/cache/environments/lock" in ending.text
