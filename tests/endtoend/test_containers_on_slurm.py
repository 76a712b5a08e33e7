"""Payloads in containers on a real Slurm, submitted by sbatch and through DRMAA."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slurm

SECRET = "planted-in-the-gateway"
# One script for all: what it does is its first argument.
SCRIPT = """
import json, os, signal, subprocess, sys, time

task = sys.argv[1]
if task == "look":
    def there(path):
        try:
            return sorted(os.listdir(path))
        except OSError:
            return None
    print(json.dumps({
        "env": dict(os.environ), "cwd": os.getcwd(), "args": sys.argv[2:],
        "home": there(sys.argv[2]), "data": open("/data/file").read(),
        "python": sys.prefix, "node": os.uname().nodename,
    }), file=open("../modeldir/seen", "w"))
elif task == "exit":
    sys.exit(42)
elif task == "hog":
    hog = bytearray(1_600_000_000)
else:
    told = []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: told.append(signal.Signals(number).name))
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
    print("ready", task, flush=True)
    while not told:
        time.sleep(0.02)
    time.sleep(0.5)
    import wave  # from the image, which must still be there
    open("../modeldir/saved", "w").write(" ".join(told))
"""


def until(holds: Callable[[], Any], seconds: float = 150) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := holds():
            return answer
        time.sleep(0.3)
    raise AssertionError(f"{holds} never held")


def test_payloads_in_containers_see_what_is_theirs_and_end_as_they_would_without(
    flow: Any, containers: Any
) -> None:
    data = flow.folder / "data"
    data.mkdir()
    (data / "file").write_text("bound")
    planted = flow.cluster.home / "of-the-home"
    planted.write_text("private")
    runtime = f"runtime: apptainer\n  program: {containers.program}"
    flow.write_site(**{"runtime: apptainer": f"{runtime}\n  binds: [{data}:/data:ro]"})
    with flow.site.open("a") as site:
        site.write("retries: {infrastructure: 0}\npayload_signal: USR1\n")
        site.write("prologue: ['echo \"outside $CUDA_VISIBLE_DEVICES\"']\n")
    home = str(flow.cluster.home)
    work = {"container": containers.python, "ram": "1GiB", "cpus": 1}
    look, ends, hogs, limited, cancelled, own, none = keys = flow.publish(
        SCRIPT,
        {**work, "args": ["look", home, "$HOME"], "gpus": 2, "gpu_memory": "30g"},
        {**work, "args": ["exit"]},
        {**work, "args": ["hog"]},
        {**work, "args": ["limited"], "max_duration": "12s"},
        {**work, "args": ["cancelled"]},
        {**work, "container": containers.busybox, "filename": None, "args": ["a b", "$HOME"]},
        {**work, "container": str(data / "file")},
    )
    process = flow.gateway("--limit-tasks", str(len(keys)), env={"PLANTED": SECRET})
    try:
        until(lambda: "ready cancelled" in log_of(flow, cancelled))
        flow.cluster.run(flow.cluster.bin / "hpcrunner", "cancel", cancelled, "--site", flow.site)
        assert process.wait(240) == 0, flow.log()[-3000:]
    finally:
        process.kill()
        planted.unlink()
    told = {key: flow.status(key)[0] for key in keys}

    assert told[look]["state"] == "SUCCEEDED", told[look]
    seen = json.loads(saved(flow, look))
    devices = re.search(r"outside (.*)", log_of(flow, look))
    assert devices and len(devices[1].split(",")) == 2
    assert seen["env"]["CUDA_VISIBLE_DEVICES"] == devices[1]
    assert seen["env"]["SLURM_JOB_PARTITION"] == "gpu" and told[look]["node"] == "n0"  # the a100s
    assert seen["env"]["SLURM_JOB_ID"] == told[look]["job_id"].partition("_")[0]
    assert seen["data"] == "bound"
    assert seen["home"] is None, "the host's home is seen"
    assert seen["env"]["HOME"] == str(Path(seen["cwd"]).parent)
    assert seen["args"] == [home, "$HOME"]
    assert SECRET not in json.dumps(seen)
    assert seen["env"]["PATH"] == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

    assert (told[ends]["reason"], told[ends]["exit_code"]) == ("PAYLOAD_EXIT", 42), told[ends]
    if flow.cluster.facts["slurm"]["memory_enforced_by"] == "cgroup":
        assert told[hogs]["reason"] == "OUT_OF_MEMORY", told[hogs]
    assert told[limited]["reason"] == "MAX_DURATION", told[limited]
    assert saved(flow, limited) == "SIGUSR1"
    assert told[cancelled]["state"] == "CANCELLED", told[cancelled]
    assert "SIGTERM" in saved(flow, cancelled)
    assert told[own]["last_lines"] == ["runscript of the image: a b $HOME"], told[own]
    assert told[none]["reason"] == "ARTIFACT_REFUSED", told[none]
    assert not [line for line in command_lines() if b"run.py limited" in line]


def saved(flow: Any, key: str) -> str:
    import tarfile

    (path,) = flow.folder.glob(f"store/**/{key}/modeldir.tar")
    with tarfile.open(path) as tar:
        (member,) = (m for m in tar if m.isfile())
        return tar.extractfile(member).read().decode()  # type: ignore[union-attr]


def log_of(flow: Any, key: str) -> str:
    for told in flow.status(key):
        if told["log"] and Path(told["log"]).exists():
            return Path(told["log"]).read_text()
    return ""


def command_lines() -> list[bytes]:
    """Of all processes of this machine, words parted by blanks."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            found.append(Path("/proc", name, "cmdline").read_bytes().replace(b"\0", b" "))
        except OSError:
            continue
    return found
