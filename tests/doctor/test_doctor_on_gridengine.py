"""The doctor on a real Grid Engine, as an ordinary user."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.gridengine


def doctor(cluster: Any, folder: Path, name: str, keys: str) -> dict[str, list[str]]:
    """A site with these keys looked at; the lines by verdict."""
    facts = cluster.facts["gridengine"]
    site = folder / f"{name}.yaml"
    site.write_text(f"extends: generic-gridengine\nspool: {folder}/{name}\n{keys}")
    subprocess.run(["chown", "-R", cluster.user, folder], check=True)
    path = f"{facts['binaries']}:{cluster.bin}:/usr/bin:/bin"
    done = cluster.run(
        *(cluster.bin / "hpcrunner", "doctor", "--site", site, "--json"),
        env={**facts["environment"], "PATH": path},
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    told: dict[str, list[str]] = {}
    for finding in json.loads(done.stdout)["findings"]:
        line = f"{finding['check']}: {finding['line']}"
        told.setdefault(finding["verdict"], []).append(line)
    return told


def test_a_sound_site_has_no_faults_and_others_are_named(cluster: Any, workdir: Path) -> None:
    facts = cluster.facts.get("gridengine")
    if not facts:
        pytest.skip("no Grid Engine here: 'make cluster' says why")
    sound = (
        f"account: {facts['project']}\nkill_wait: {facts['notify_seconds']}\n"
        f"drmaa: {{library: {facts['drmaa_library']}}}\nrecord_wait: 5\n"
        "defaults: {memory: 800M, time_limit: 00:30:00}\n"
        "partitions: [{name: all.q, max_time: 1-00:00:00, max_cpus: 8}]\n"
    )
    told = doctor(cluster, workdir, "sound", sound)
    # A disk that is busy with other tests is slow, and rightly told to be.
    wrong = [*told.get("fault", []), *told.get("warning", [])]
    assert [n for n in wrong if not (n.startswith("spool: ") and "slow: " in n)] == []
    assert any(line.startswith("probe: cpu job") for line in told["ok"])
    faulty = (
        "account: nobody\ndrmaa: {library: /nowhere/libdrmaa.so}\n"
        "limits: {max_array_size: 5001, max_array_tasks: 4000}\n"
        "gridengine: {parallel_environment: shm, memory_resources: [mem], gpu_resource: cards}\n"
        "partitions:\n  - {name: ghost.q}\n"
        "  - {name: short.q, max_time: 1-00:00:00, gpus: [{memory: 16G, count: 4}]}\n"
    )
    named = doctor(cluster, workdir, "faulty", faulty)["fault"]
    for check, words in (
        ("partitions", "no such queue"),
        ("partitions", "longer than the queue's h_rt"),
        ("kill_wait", "after its notice"),
        ("resources", "no resource mem"),
        ("resources", "no resource cards"),
        ("cpus", "no parallel environment shm"),
        ("account", "no project nobody"),
        ("arrays", "max_aj_tasks is"),
        ("drmaa", "/nowhere/libdrmaa.so"),
    ):
        assert [n for n in named if n.startswith(f"{check}: ") and words in n], (check, named)
