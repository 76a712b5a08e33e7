"""``hpcrunner doctor`` and ``site init`` as a person calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "here.yaml"
    path.write_text(f"scheduler: local\nspool: {tmp_path}/spool\naccounting: {{mode: none}}\n")
    return path


def hpcrunner(*words: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    boot = "from hpcrunner.cli.main import main; main()"
    argv = [sys.executable, "-c", boot, *map(str, words)]
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **environ}
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, env=environment)


def test_a_fault_ends_with_1_and_is_one_line_without_secrets(site: Path) -> None:
    done = hpcrunner(
        *("doctor", "--site", site, "--no-job"),
        *("--store", "s3://127.0.0.1:1/bucket", "--wait", "5s"),
        AMQP_URL="amqp://me:hunter2@127.0.0.1:1/",
        AWS_ACCESS_KEY_ID="me",
        AWS_SECRET_ACCESS_KEY="hunter3",
    )
    assert done.returncode == 1, done.stderr
    faults = [line for line in done.stdout.splitlines() if line.startswith("fault")]
    assert [line.split()[1] for line in faults] == ["broker", "store"]
    assert "2 faults" in done.stdout.splitlines()[-1]
    assert "hunter" not in done.stdout + done.stderr


def test_json_is_for_machines_and_a_sound_site_ends_with_0(site: Path) -> None:
    done = hpcrunner("doctor", "--site", site, "--no-job", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["site"] == "here"
    probe = next(f for f in told["findings"] if f["check"] == "probe")
    assert (probe["verdict"], probe["what"]) == ("not tried", "--no-job")
    assert all(
        {"check", "verdict", "what", "where", "remedy", "line"} == set(f) for f in told["findings"]
    )


def test_a_site_file_with_mistakes_is_told_at_once(site: Path) -> None:
    site.write_text("spol: /tmp/x\nscheduler: slurm\n")
    done = hpcrunner("doctor", "--site", site)
    assert done.returncode == 78
    assert len(done.stderr.splitlines()) == 2


def test_site_init_needs_a_cluster_and_says_so(tmp_path: Path) -> None:
    target = tmp_path / "mine.yaml"
    done = hpcrunner("site", "init", target, PATH=str(tmp_path))
    assert done.returncode == 69 and not target.exists()
    assert "there is no scontrol on the PATH" in done.stderr
    target.write_text("")
    assert hpcrunner("site", "init", target).returncode == 73
