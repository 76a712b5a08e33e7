"""Jobs on a real Slurm whose container image is nowhere yet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from registry import is_installed, running_registry

from dev.queue_servers import free_port

JOBS = 50


@pytest.mark.slurm
def test_fifty_jobs_that_want_one_image_pull_it_once(
    flow: Any, containers: Any, tmp_path: Path
) -> None:
    """By sbatch the nodes pull, through DRMAA the gateway does before it submits."""
    if not is_installed():
        pytest.skip("docker-registry is not installed: 'make cluster' installs it")
    by_gateway = flow.scheduler == "drmaa"
    with running_registry(tmp_path / "registry", free_port()) as registry:
        files = {"bin/busybox": Path("/bin/busybox").read_bytes()}
        program = ("/bin/busybox", "echo", "the image's own")
        registry.push_docker("team/image:1", files, program)
        registry.push_docker("team-of-others/image:1", files, program)
        docker = f"docker://{registry.host}"
        keys = f"  cache: {flow.folder}/shared\n  plain_http: ['{registry.host}']\n"
        keys += f"  trusted: ['{docker}/team/']\n  pull: {'gateway' if by_gateway else 'node'}\n"
        runtime = "  runtime: apptainer\n"
        flow.write_site(**{runtime: f"{runtime}  program: {containers.program}\n{keys}"})
        work = {"filename": None, "cpus": 1, "ram": "200MiB"}
        *wanted, untrusted = flow.publish(
            "",
            {**work, "container": f"{docker}/team/image:1", "times": JOBS},
            {**work, "container": f"{docker}/team-of-others/image:1"},
        )
        flow.finish(JOBS + 1)
        assert registry.pulls("team/image") == 1
        assert registry.looks("team-of-others/image") == 0
    told = {e["key"]: e for e in flow.status()}
    assert {told[key]["state"] for key in wanted} == {"SUCCEEDED"}, told[wanted[0]]
    assert flow.status(wanted[-1])[0]["last_lines"][-1] == "the image's own"
    assert len({told[key]["job_id"].partition("_")[0] for key in wanted}) == 1, "not one array"
    assert told[untrusted]["state"] == "REJECTED"
    assert "does not trust" in told[untrusted]["text"]
    events = [
        json.loads(line)["event"]
        for path in flow.folder.glob("spool/batches/*/events/*")
        for line in path.read_text().splitlines()
    ]
    assert events.count("pulled") == (0 if by_gateway else 1)
    assert len(list(flow.folder.glob("shared/images/*.sif"))) == 1
    assert not list(flow.folder.glob("shared/images/pulling/*"))
