"""The job side killed at every named place, and what comes after."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import hpcrunner
from hpcrunner.crashpoint import JOB_POINTS
from hpcrunner.job.claim import Claim, take_claim
from hpcrunner.job.leftovers import sweep
from hpcrunner.job.workspace import make_workspace
from hpcrunner.request.claim import Owner, claims, fence
from hpcrunner.request.plan import NodeSetup, PlannedExperiment
from hpcrunner.request.reasons import Reason

if TYPE_CHECKING:
    from conftest import Node

# It counts its runs in a ledger, and how far it came in the model that it goes on with.
COUNTING = """
import os
open({ledger!r}, "a").write(os.environ.get("HPCRUNNER_CRASH", "") + "run\\n")
path = "../modeldir/count"
count = int(open(path).read()) if os.path.exists(path) else 0
open(path, "w").write(str(count + 1))
print("counted", count + 1)
"""
STUCK = "import time; print('started', flush=True); time.sleep(3600)"


def counting(node: Node, **more: object) -> PlannedExperiment:
    """An experiment with a client's record and a Python environment to build."""
    script = COUNTING.format(ledger=str(node.folder / "ledger"))
    return replace(node.script(script), record=node.location("k"), **more)


def crash(node: Node, point: str, index: int = 1, **environ: str) -> subprocess.Popen[bytes]:
    folder = node.folder / "crashed"
    folder.mkdir(exist_ok=True)
    return node.start(index, HPCRUNNER_CRASH=f"{point}:1:{folder}", **environ)


def test_the_list_of_points_is_that_of_the_code() -> None:
    package = Path(hpcrunner.__file__).parent
    files = [*(package / "job").glob("*.py"), package / "request" / "claim.py"]
    passed = re.findall(r'crashpoint\("([\w.]+)"\)', "".join(f.read_text() for f in files))
    assert sorted(passed) == sorted(JOB_POINTS)


@pytest.mark.parametrize("point", JOB_POINTS)
def test_a_job_killed_anywhere_and_started_again_ends_once_and_well(
    node: Node, point: str, offline: dict[str, str]
) -> None:
    node.write(counting(node, pip=("beta==1.0",)))
    first = crash(node, point, SLURM_JOB_ID="7", **offline)
    assert first.wait(150) == -signal.SIGKILL, node.log()
    again = crash(node, point, SLURM_JOB_ID="7", SLURM_RESTART_COUNT="1", **offline)
    assert again.wait(150) == 0, node.log()
    assert node.record().reason is Reason.COMPLETED
    runs = (node.folder / "ledger").read_text().splitlines()
    after_the_record = point in ("job.recorded", "job.client_told")
    ran_before = JOB_POINTS.index(point) > JOB_POINTS.index("job.payload_started")
    if point == "job.payload_started":
        assert len(runs) in (1, 2)  # it was killed while the payload came up
    else:
        assert len(runs) == (2 if ran_before and not after_the_record else 1)
    assert set(runs) == {"run"}  # and the payload knows nothing of it
    assert node.members("modeldir.tar").keys() == {"count"}
    assert json.loads((node.store / "k").read_text())["status"] == "finished"
    # Whoever comes third finds it done.
    assert node.start(SLURM_JOB_ID="7", SLURM_RESTART_COUNT="2").wait(150) == 0
    assert (node.folder / "ledger").read_text().splitlines() == runs


@pytest.mark.parametrize("point", JOB_POINTS[1:])
def test_a_job_killed_anywhere_after_its_claim_leaves_nothing_to_another_job(
    node: Node, point: str, offline: dict[str, str]
) -> None:
    node.write(counting(node, pip=("beta==1.0",)))
    assert crash(node, point, SLURM_JOB_ID="7", **offline).wait(150) == -signal.SIGKILL
    ledger = node.folder / "ledger"
    runs = ledger.read_text() if ledger.exists() else ""
    assert node.start(SLURM_JOB_ID="8").wait(150) == 0
    assert "duplicate" in node.log().splitlines()[-1]
    assert (ledger.read_text() if ledger.exists() else "") == runs


def test_what_was_saved_before_a_crash_is_gone_on_with(node: Node) -> None:
    node.write(counting(node))
    # Both artifacts are saved at the end; the record is not there yet.
    assert crash(node, "job.before_record", SLURM_JOB_ID="7").wait(150) == -signal.SIGKILL
    assert node.start(SLURM_JOB_ID="7", SLURM_RESTART_COUNT="1").wait(150) == 0
    assert node.record().last_lines == ("counted 2",)
    assert node.members("modeldir.tar") == {"count": b"2"}
    assert [name for name in os.listdir(node.batch / "records") if name == "1.json"] == ["1.json"]


def test_an_environment_is_never_poisoned_by_a_kill_before_it_was_complete(
    node: Node, offline: dict[str, str]
) -> None:
    node.write(counting(node, pip=("beta==1.0",)))
    first = crash(node, "job.environment_built", SLURM_JOB_ID="7", **offline)
    assert first.wait(150) == -signal.SIGKILL
    (folder,) = (node.folder / "cache" / "environments").iterdir()
    wreck = [e.name for e in folder.iterdir() if e.is_dir()]
    assert len(wreck) == 1
    assert not (folder / "current").exists()
    assert node.start(SLURM_JOB_ID="7", SLURM_RESTART_COUNT="1", **offline).wait(150) == 0
    assert node.record().reason is Reason.COMPLETED
    standing = [e.name for e in folder.iterdir() if e.is_dir()]
    assert standing == [(folder / "current").read_text()]  # and the wreck is gone
    assert standing != wreck


def test_half_an_event_line_does_not_spoil_the_next(node: Node) -> None:
    node.write(counting(node))
    (node.batch / "events").mkdir()
    (node.batch / "events" / "1").write_text('{"time": 1, "event": "cla')
    assert node.start().wait(150) == 0
    first, *lines = (node.batch / "events" / "1").read_text().splitlines()
    assert first == '{"time": 1, "event": "cla'
    assert json.loads(lines[0])["event"] == "claimed"


def test_a_restored_spool_with_a_record_but_no_claim_runs_nothing_again(node: Node) -> None:
    node.write(counting(node))
    assert node.start().wait(150) == 0
    (node.batch / "claims" / "1").unlink()
    assert node.start(SLURM_JOB_ID="9").wait(150) == 0
    assert "has its ending already" in node.log()
    assert (node.folder / "ledger").read_text() == "run\n"


@pytest.mark.parametrize("content", ["", "{", '{"version": 1}', '{"version": 99}'])
def test_a_damaged_record_is_named_and_nothing_is_run_over_it(node: Node, content: str) -> None:
    node.write(counting(node))
    (node.batch / "records").mkdir()
    (node.batch / "records" / "1.json").write_text(content)
    assert node.start().wait(150) == 65
    assert "1.json: not a record" in node.log()
    assert not (node.folder / "ledger").exists()
    assert (node.batch / "records" / "1.json").read_text() == content


def test_an_attempt_that_was_fenced_before_its_job_came_does_not_run(node: Node) -> None:
    node.write(counting(node))
    fence(node.batch / "claims" / "1")
    assert node.start(SLURM_JOB_ID="7").wait(150) == 0
    assert not (node.folder / "ledger").exists()
    assert not (node.batch / "records").exists() or not os.listdir(node.batch / "records")


def test_a_running_attempt_that_is_fenced_ends_and_saves_nothing(node: Node) -> None:
    script = "open('../modeldir/w', 'w').write('stale'); print('ready', flush=True)\n" + STUCK
    node.write(replace(node.script(script), record=node.location("k")))
    node.look_every = 0.2
    process = node.start(SLURM_JOB_ID="7")
    node.wait_until(lambda: "ready\n" in node.log())
    fence(node.batch / "claims" / "1")
    assert process.wait(150) == 143
    assert node.record().text.startswith("the gateway has given this attempt up")
    assert sorted(os.listdir(node.store)) == ["k", "workspace.tar"]
    # The next attempt has the client's record by now.
    assert json.loads((node.store / "k").read_text())["status"] == "running"


def test_a_run_whose_job_was_started_again_elsewhere_ends_and_leaves_no_word(node: Node) -> None:
    """As when the scheduler cannot reach a host that goes on working."""
    script = "open('../modeldir/w', 'w').write('stale'); print('ready', flush=True)\n" + STUCK
    node.write(replace(node.script(script), record=node.location("k")))
    node.look_every = 0.2
    process = node.start(SLURM_JOB_ID="7")
    node.wait_until(lambda: "ready\n" in node.log())
    there = Owner("elsewhere", 7, "7", 1, 0.0)
    assert take_claim(node.batch / "claims" / "1", there) is Claim.TAKEN_AGAIN
    assert process.wait(150) == 143
    assert "has started this job again elsewhere" in node.log()
    assert os.listdir(node.batch / "records") == []
    assert sorted(os.listdir(node.store)) == ["k", "workspace.tar"]
    assert json.loads((node.store / "k").read_text())["status"] == "running"


def test_a_run_whose_job_was_started_again_leaves_the_folders_to_the_new_run(node: Node) -> None:
    """As on the same node, or on another one with the same scratch folder."""
    node.write(node.script("print('ready', flush=True)\n" + STUCK))
    node.look_every = 0.2
    first = node.start(SLURM_JOB_ID="7")
    node.wait_until(lambda: "ready\n" in node.log())
    setup, name = NodeSetup(scratch=str(node.scratch), cache=""), node.experiment({}).name
    anew = make_workspace(setup, node.home.name, name, ["output"], {})
    (anew.cwd / "mine").touch()
    there = Owner("elsewhere", 7, "7", 1, 0.0)
    assert take_claim(node.batch / "claims" / "1", there) is Claim.TAKEN_AGAIN
    assert first.wait(150) == 143
    assert anew.is_ours
    assert os.listdir(anew.cwd) == ["mine"]
    assert os.listdir(anew.root / "output") == []


def test_a_second_attempt_goes_on_from_the_first_ones_model_and_has_an_output_of_its_own(
    node: Node,
) -> None:
    first = counting(node)
    assert node.run(first).last_lines == ("counted 1",)
    (node.batch / "claims" / "1").unlink()
    (node.batch / "records" / "1.json").unlink()
    assert node.run(replace(first, attempt=2)).last_lines == ("counted 2",)
    assert node.members("modeldir.tar") == {"count": b"2"}
    assert node.members("output.tar") == {"./output": b"counted 2\n"}


def test_a_second_attempt_that_does_not_come_to_its_payload_destroys_no_result(node: Node) -> None:
    first = counting(node)
    node.run(first)
    before = (node.store / "modeldir.tar").read_bytes()
    (node.batch / "claims" / "1").unlink()
    (node.batch / "records" / "1.json").unlink()
    record = node.run(replace(first, attempt=2, python_version="3.2"))
    assert record.reason is Reason.ENVIRONMENT_FAILED
    assert (node.store / "modeldir.tar").read_bytes() == before
    # The output is the attempt's own from its start: it says why.
    assert b"counted" not in node.members("output.tar")["./output"]


def test_attempt_and_restarts_are_told_to_the_payload(node: Node) -> None:
    script = (
        "import os; print(os.environ['STUDIOML_ATTEMPT'], os.environ['STUDIOML_RESTARTS'],"
        " os.environ.get('HPCRUNNER_CRASH'))"
    )
    node.write(replace(node.script(script), attempt=3))
    crash(node, "nowhere", SLURM_JOB_ID="7", SLURM_RESTART_COUNT="2").wait(150)
    assert node.record().last_lines == ("3 2 None",)
    assert [owner and owner.restarts for owner in claims(node.batch / "claims" / "1")] == [2]


def test_a_later_job_removes_what_dead_attempts_have_left_and_nothing_else(node: Node) -> None:
    base = node.home.parent
    waits = f"import os, time\nwhile os.path.exists({str(base / 'b0b0-2')!r}): time.sleep(0.05)\n"
    work = node.experiment({"stuck.py": STUCK, "waits.py": waits}, filename="stuck.py")
    node.write(work, work, replace(work, filename="waits.py"))
    living = node.start(1)
    node.wait_until(lambda: "started" in node.log().splitlines())
    assert crash(node, "job.fetched", index=2).wait(150) == -signal.SIGKILL
    (base / "somebody-elses").mkdir()
    (base / "b1b1-1").mkdir()
    (base / "b1b1-1" / "owner").write_text("another-node")
    assert sorted(os.listdir(base)) == ["b0b0-1", "b0b0-2", "b1b1-1", "somebody-elses"]
    assert node.start(3).wait(150) == 0
    assert sorted(os.listdir(base)) == ["b0b0-1", "b1b1-1", "somebody-elses"]
    assert living.poll() is None
    assert (base / "b0b0-1" / "experiments" / "k-1" / "workspace" / "stuck.py").exists()


def test_a_kept_folder_is_not_taken_for_a_dead_ones(node: Node) -> None:
    node.write(node.script("print(1)"), keep=True)
    node.start().wait(150)
    assert sweep(node.home.parent / "b0b0-9") == []
    assert os.listdir(node.home.parent) == ["b0b0-1"]


def test_a_payload_dies_with_a_job_side_that_is_killed(node: Node) -> None:
    node.write(node.script(STUCK))
    process = node.start()
    node.wait_until(lambda: "started" in node.log().splitlines())
    payload = node.event("running")["pid"]
    process.kill()
    process.wait(150)
    node.wait_until(lambda: not Path(f"/proc/{payload}/exe").exists())
