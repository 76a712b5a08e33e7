"""The lines of ``_metrics``: what the payload uses, and nothing of its neighbours."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpcrunner.job.allocation import Allocation
from hpcrunner.job.usage import Metrics, Usage, gpu_summary, gpu_words, tree_usage
from hpcrunner.request.reasons import Reason

if TYPE_CHECKING:
    from conftest import Node

# As the Python worker writes it, and as those who read it take it apart.
LINE = re.compile(r"time: (\S+) CPU: (\S+) mem: (\d+) (?:(gpu .*)|) \n")
BUSY = """
import sys, time
held = bytearray(64 << 20)
until = time.process_time() + 1.5
while time.process_time() < until:
    pass
print(len(held))
"""


def lines(text: str) -> list[tuple[float, float, int, str]]:
    found = [LINE.fullmatch(line) for line in text.splitlines(keepends=True)]
    assert all(found), text
    return [(float(m[1]), float(m[2]), int(m[3]), m[4] or "") for m in found if m]


def test_a_payloads_use_of_cpu_and_memory_is_written_and_saved_as_a_file(node: Node) -> None:
    experiment = node.script(BUSY)
    artifacts = (*experiment.artifacts, node.artifact("_metrics"))
    began = time.time()
    record = node.run(replace(experiment, artifacts=artifacts, cpus=1))
    assert record.reason is Reason.COMPLETED, node.log()
    members = node.members("_metrics.tar")
    assert list(members) == ["./_metrics"]  # one member that begins so is a file to clients
    told = lines(members["./_metrics"].decode())
    assert len(told) >= 2
    assert all(began <= at <= time.time() for at, *_ in told)
    assert max(cpu for _, cpu, *_ in told) > 5
    assert max(memory for _, _, memory, _ in told) > 64 << 20


def test_a_request_without_a_metrics_artifact_gets_no_folder_of_that_name(node: Node) -> None:
    script = "import os, time; time.sleep(1.5); print(sorted(os.listdir('..')))"
    assert "_metrics" not in node.run(node.script(script)).last_lines[0]


def test_lines_are_added_to_those_of_the_attempt_before(node: Node) -> None:
    node.put("_metrics.tar", {"./_metrics": "time: 1.0 CPU: 2.0 mem: 3  \n"})
    experiment = node.script("")
    artifacts = (*experiment.artifacts, node.artifact("_metrics"))
    node.run(replace(experiment, artifacts=artifacts))
    told = lines(node.members("_metrics.tar")["./_metrics"].decode())
    assert told[0] == (1.0, 2.0, 3, "")
    assert len(told) >= 2


def test_the_tree_counts_children_and_those_that_have_ended() -> None:
    before = tree_usage().cpu
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True);input()"
    code = f"import subprocess,sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while_it_lives = tree_usage()
        process.communicate(b"\n")
    assert while_it_lives.cpu - before >= 0.25
    assert while_it_lives.memory > 5 << 20
    assert tree_usage().cpu >= while_it_lives.cpu - 0.05


@pytest.fixture
def metrics(tmp_path: Path) -> Callable[..., Metrics]:
    def make(look: Callable[[], Usage] = lambda: Usage(0.0, 7), **more: object) -> Metrics:
        usual = {"file": tmp_path / "_metrics", "interval": 60.0, "cpus": 2, "gpus": str}
        return Metrics(look=look, **{**usual, **more})  # type: ignore[arg-type]

    return make


def test_percent_are_of_the_jobs_cpus_since_the_line_before(
    tmp_path: Path, metrics: Callable[..., Metrics]
) -> None:
    looks = iter([Usage(10.0, 0), Usage(15.0, 8), Usage(15.0, 9)])
    steady = iter([100.0, 105.0, 115.0])
    made = metrics(lambda: next(looks), clock=lambda: 1.5, steady=lambda: next(steady))
    made._write("gpu 0 util: 1 %, mem 2")
    made._write("")
    assert (tmp_path / "_metrics").read_text() == (
        "time: 1.5 CPU: 50.0 mem: 8 gpu 0 util: 1 %, mem 2 \ntime: 1.5 CPU: 0.0 mem: 9  \n"
    )


@pytest.mark.parametrize("spoil", ["link", "folder is a link", "pipe", "gone"])
def test_a_payload_that_spoils_the_file_is_not_disturbed_and_nothing_is_followed(
    tmp_path: Path, metrics: Callable[..., Metrics], spoil: str
) -> None:
    path = tmp_path / "_metrics"
    if spoil == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif spoil == "folder is a link":
        (tmp_path / "theirs").mkdir()
        path.symlink_to(tmp_path / "theirs")
        path = path / "_metrics"
    elif spoil == "pipe":
        os.mkfifo(path)
    made = metrics(file=path / "below" if spoil == "gone" else path)
    assert made._write("") is False
    assert not (tmp_path / "elsewhere").exists()
    assert not (tmp_path / "theirs" / "_metrics").exists()


def test_a_driver_that_hangs_holds_up_no_ending(metrics: Callable[..., Metrics]) -> None:
    release, asked = threading.Event(), threading.Event()

    def hang() -> str:
        asked.set()
        release.wait(150)
        return ""

    made = metrics(gpus=hang)
    made.start()
    assert asked.wait(150)
    closing = threading.Thread(target=made.close, daemon=True)
    closing.start()
    closing.join(30)
    ended = not closing.is_alive()
    release.set()
    assert ended


def driver(folder: Path, text: str) -> dict[str, str]:
    """An environment with a program of the driver's name that prints its words, and ``text``."""
    program = folder / "nvidia-smi"
    program.write_text(f'#!/bin/sh\necho "$@" >{folder}/asked\n{text}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


def test_only_the_jobs_own_gpus_are_asked_about(tmp_path: Path) -> None:
    environ = driver(tmp_path, "printf '1, 93, 1024\\n2, 0, 3\\n'")
    told = gpu_summary(Allocation(4, True, ("1", "2")), environ)()
    assert told == "gpu 1 util: 93 %, mem 1073741824 gpu 2 util: 0 %, mem 3145728"
    assert "--id=1,2" in (tmp_path / "asked").read_text()


def test_a_driver_that_fails_tells_nothing(tmp_path: Path) -> None:
    environ = driver(tmp_path, "echo 'No devices were found'; exit 6")
    assert gpu_summary(Allocation(4, True, ("1",)), environ)() == ""


def test_without_gpus_or_driver_nobody_is_asked(tmp_path: Path) -> None:
    environ = driver(tmp_path, "")
    assert gpu_summary(Allocation(4, False, ()), environ)() == ""
    assert gpu_summary(Allocation(4, True, ("0",)), {"PATH": "/nowhere"})() == ""
    assert not (tmp_path / "asked").exists()


def test_what_a_card_does_not_know_is_left_out() -> None:
    assert gpu_words(["0, [N/A], [N/A]", "1, [N/A], 5", "rubbish"]) == (
        f"gpu 1 util: [N/A] %, mem {5 << 20}"
    )
