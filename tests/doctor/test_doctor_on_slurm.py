"""The doctor on the real cluster, as its ordinary user: it names what is wrong, and only that."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dev.queue_servers import free_port

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[2]
SITE = ROOT / "site-configs" / "development-cluster.yaml"


def doctor(cluster: Any, site: Path, *words: str | Path, **environ: str) -> dict[str, Any]:
    """What it says as JSON, by check; ``code`` is how it ended."""
    done = cluster.run(
        *(cluster.bin / "hpcrunner", "doctor", "--site", site, "--json", *words),
        env=environ,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    findings = json.loads(done.stdout)["findings"]
    return {"code": done.returncode, "findings": findings, "text": done.stdout + done.stderr}


def lines(told: dict[str, Any], *verdicts: str) -> list[str]:
    return [f"{f['check']}: {f['line']}" for f in told["findings"] if f["verdict"] in verdicts]


def is_slow(line: str) -> bool:
    return line.startswith("spool: ") and "slow: " in line


def outside_servers(cluster: Any) -> tuple[list[str], dict[str, str]]:
    """The options and variables that point at the cluster's own broker and store."""
    s3 = cluster.facts["s3"]
    host = s3["endpoint"].partition("://")[2]
    return ["--store", f"s3://{host}/{s3['bucket']}"], {
        "AMQP_URL": cluster.facts["rabbitmq"]["url"],
        "AMQP_MGT_URL": cluster.facts["rabbitmq"]["management_url"],
        "AWS_ACCESS_KEY_ID": s3["access_key"],
        "AWS_SECRET_ACCESS_KEY": s3["secret_key"],
        "DRMAA_LIBRARY_PATH": cluster.drmaa_library or "",
        # They bend commands; none may come through.
        "SBATCH_PARTITION": "nowhere",
        "SLURM_CLUSTERS": "nowhere",
    }


def mine(cluster: Any, *paths: Path) -> None:
    subprocess.run(["chown", "-R", cluster.user, *paths], check=True)


def test_a_first_site_file_is_enough_for_a_clean_round(cluster: Any, workdir: Path) -> None:
    site = workdir / "first.yaml"
    hpcrunner = cluster.bin / "hpcrunner"
    cluster.run(hpcrunner, "site", "init", site)
    assert "sound" in cluster.run(hpcrunner, "site", "check", site).stdout
    again = cluster.run(hpcrunner, "site", "init", site, check=False)
    assert again.returncode == 73 and "there is such a file already" in again.stderr
    words, environ = outside_servers(cluster)
    apptainer = cluster.facts["apptainer"]
    if apptainer["program"]:
        container = f"container: {{runtime: apptainer, program: {apptainer['program']}}}\n"
        (workdir / "more.yaml").write_text(f"extends: {site}\n{container}")
        site = workdir / "more.yaml"
        mine(cluster, workdir)
        words += ["--image", apptainer["busybox_image"]]
    told = doctor(cluster, site, "--spool", workdir / "spool", *words, **environ)
    # A disk that is busy with other tests is slow, and rightly told to be.
    assert [n for n in lines(told, "fault", "warning") if not is_slow(n)] == []
    assert told["code"] == 0
    # All that was to be looked at was, but for what only systemd knows.
    assert {f["check"] for f in told["findings"] if f["verdict"] == "not tried"} <= {"session"}
    ok = lines(told, "ok")
    backend = "by drmaa" if cluster.drmaa_library else "by sbatch"
    for words_ in ("cpu job", "gpu job"):
        assert any(words_ in line and backend in line for line in ok), ok
    checks = ["node.environment", "node.steps", "node.gpus", "node.store", "record", "broker"]
    assert not apptainer["program"] or "node.container: node n2: the image runs" in ok
    for check in checks:
        assert any(line.startswith(f"{check}: ") for line in ok), ok
    assert not (workdir / "spool").exists()  # it was made for the round, and is gone with it
    assert cluster.facts["s3"]["secret_key"] not in told["text"]
    assert cluster.facts["rabbitmq"]["password"] not in told["text"]


def faulty_site(cluster: Any, folder: Path) -> Path:
    """The cluster's own site file with a dozen things that are not so."""
    (folder / "templates").mkdir()
    (folder / "templates" / "batch.sh.j2").write_text("{% block run %}")
    (folder / "spool").mkdir(mode=0o750)
    (folder / "spool").chmod(0o750)
    (folder / "shut").mkdir()
    (folder / "shut").chmod(0o500)
    (installed,) = (cluster.bin.parent / "lib").glob("python3*/site-packages/hpcrunner")
    subprocess.run(
        [cluster.bin / "python", "-m", "venv", "--without-pip", folder / "old"], check=True
    )
    (packages,) = (folder / "old" / "lib").glob("python3*/site-packages")
    shutil.copytree(installed, packages / "hpcrunner")
    (packages / "hpcrunner" / "__init__.py").write_text('__version__ = "0.0.9"\n')
    site = folder / "faulty.yaml"
    site.write_text(
        f"""
extends: {SITE}
spool: {folder}/spool
scratch: {folder}/shut/scratch
python: {folder}/old/bin/python
templates: {folder}/templates
kill_wait: 60
limits: {{max_array_size: 5001, max_array_tasks: 4000}}
drmaa: {{library: /nowhere/libdrmaa.so}}
container: {{runtime: apptainer, program: /nowhere/apptainer}}
partitions:
  - {{name: ghost, max_time: 60}}
  - {{name: cpu, max_time: 1-00:00:00, max_cpus: 8, max_memory: 64G}}
  - name: gpu
    max_time: 2-00:00:00
    gpus_only: true
    gpus:
      - {{type: h100, memory: 9G, count: 4}}
      - {{type: a100, memory: 40G, count: 4}}
  - {{name: low, max_time: 1-00:00:00, qos: low, account: nobody}}
"""
    )
    mine(cluster, folder)
    return site


FAULTS = (
    ("templates", "templates/batch.sh.j2 (line 1)"),
    ("node.python", "runs hpcrunner 0.0.9"),
    ("spool", "is open to others (mode 0750)"),
    ("arrays", "MaxArraySize is 1001"),
    ("kill_wait", "60 s, and KillWait is 5 s"),
    ("account", "partitions[3] low.account"),
    ("partitions", "partitions[0] ghost.name: the cluster has no such partition"),
    ("partitions", "partitions[1] cpu.max_memory: 65536M, and its largest node has 8000M"),
    ("gpus", "no node of the partition has GPUs of type h100"),
    ("drmaa", "/nowhere/libdrmaa.so: no such file"),
    ("broker", "Connection refused"),
    ("store", "no connection to 127.0.0.1"),
    ("node.store", "not reached from the node"),
    ("node.container", "/nowhere/apptainer does not start"),
    ("node.scratch", "cannot be written (Permission denied)"),
)


def test_a_dozen_faults_at_once_are_all_named(cluster: Any, workdir: Path) -> None:
    site = faulty_site(cluster, workdir)
    told = doctor(
        cluster,
        site,
        *("--store", f"s3://127.0.0.1:{free_port()}/bucket"),
        AMQP_URL=f"amqp://me:hunter2@127.0.0.1:{free_port()}/",
        AWS_ACCESS_KEY_ID="me",
        AWS_SECRET_ACCESS_KEY="hunter3",
    )
    named = lines(told, "fault")
    assert told["code"] == 1
    for check, words in FAULTS:
        found = [line for line in named if line.startswith(f"{check}: ") and words in line]
        assert len(found) == 1, f"{check}, {words}: {named}"
    # Beside these only what follows from them: the login node sees the old hpcrunner, too.
    known = {check for check, _ in FAULTS} | {"hpcrunner"}
    assert [line for line in named if line.partition(":")[0] not in known] == []
    assert "hunter" not in told["text"]
    ran = [f["line"] for f in told["findings"] if f["check"] == "probe"]
    assert all("with the shipped template" in line for line in ran) and len(ran) == 2
    assert [p.name for p in (workdir / "spool").iterdir()] == []


@contextmanager
def killed(server: str) -> Iterator[None]:
    def dev_cluster(word: str) -> None:
        argv = [sys.executable, "-m", "dev.cluster", word, server]
        subprocess.run(argv, cwd=ROOT, check=True, timeout=500, capture_output=True)

    dev_cluster("kill")
    try:
        yield
    finally:
        dev_cluster("start")


def test_accounting_that_is_away_is_named(cluster: Any, workdir: Path) -> None:
    site = workdir / "site.yaml"
    site.write_text(f"extends: {SITE}\nspool: {workdir}/spool\n")
    mine(cluster, workdir)
    words, environ = outside_servers(cluster)
    with killed("slurmdbd"):
        told = doctor(cluster, site, "--no-job", *words, **environ)
    assert [line.partition(":")[0] for line in lines(told, "fault")] == ["accounting"]
    assert any(line.startswith("account: ") for line in lines(told, "not tried"))


def test_an_interrupt_cancels_the_probe(cluster: Any, workdir: Path) -> None:
    site = workdir / "site.yaml"
    own = f"spool: {workdir}/spool\ndirectives: [--begin=now+1hour]\n"  # so that it waits
    site.write_text(f"extends: {SITE}\n{own}")
    mine(cluster, workdir)
    log = workdir / "log"
    # What runs the tests may ignore interrupts, as a shell's background job does.
    heeding = ("env", "--default-signal=INT", cluster.bin / "hpcrunner")
    process = cluster.start(*heeding, "doctor", "--site", site, "--wait", "100s", log=log)
    probes = f"{workdir}/spool/doctor/"
    try:
        end = time.monotonic() + 150
        while probes not in queued(cluster):
            assert time.monotonic() < end and process.poll() is None, log.read_text()
            time.sleep(0.2)
        # Itself alone: runuser would kill it two seconds after it had heard of the interrupt.
        found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
        os.kill(int(found.stdout), signal.SIGINT)
        assert process.wait(120) == 130, log.read_text()
    finally:
        process.kill()
    end = time.monotonic() + 120
    while probes in queued(cluster) or (workdir / "spool" / "doctor").exists():
        assert time.monotonic() < end, queued(cluster)
        time.sleep(0.2)


def queued(cluster: Any) -> str:
    """Where the user's waiting and running jobs were submitted from."""
    return str(cluster.run("squeue", "--me", "-h", "-t", "PD,R", "-o", "%Z").stdout)
