"""One batch, four ways to real Slurm: sbatch's options, the script's header, slurm-drmaa and,
where there is one, pyslurm.
"""

import json
import os
import pwd
import re
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.native import (
    native_specification,
    output_pattern,
    remote_command,
    sbatch_words,
)
from hpcrunner.batch.pyslurm import job_description
from hpcrunner.batch.script import render_script
from hpcrunner.data import data_folder
from hpcrunner.request.model import Resources
from hpcrunner.sites.load import load_site
from hpcrunner.sites.placement import place
from hpcrunner.sites.site import Site

pytestmark = pytest.mark.slurm
WAYS = ["options", "header", pytest.param("drmaa", marks=pytest.mark.drmaa), "pyslurm"]

# Tells what it was started with, then waits to be told to stop, and saves.
JOB_SIDE = r"""#!/bin/bash
printf '<%s>\n' "$@"
srun --quiet bash -c 'echo "srun has $SLURM_CPUS_PER_TASK of $SLURM_EXPORT_ENV"'
trap 'sleep 1; echo saved; exit 0' TERM
[ -e "${!#}.wait" ] || exit 0
echo waiting
while :; do sleep 0.2; done
"""
SUBMIT_BY_DRMAA = """
import json, sys, drmaa
words = json.load(sys.stdin)
with drmaa.Session() as session:
    template = session.createJobTemplate()
    template.remoteCommand, template.nativeSpecification = words["command"], words["native"]
    template.outputPath, template.workingDirectory = ":" + words["output"], words["folder"]
    template.joinFiles = True
    if words["size"] == 1:
        print(session.runJob(template))
    else:
        print(session.runBulkJobs(template, 1, words["size"], 1)[0].split("_")[0])
"""
PYSLURM = os.environ.get("HPCRUNNER_PYSLURM_PYTHON", "")
SUBMIT_BY_PYSLURM = """
import json, os, sys
sys.path.append(sys.argv[1])
from hpcrunner.schedulers.pyslurm_child import Pyslurm
print(Pyslurm(dict(os.environ)).submit(job=json.load(sys.stdin))["id"])
"""
# What must be equal, as scontrol(1) prints it.
SHAPE = re.compile(
    r"\b(Requeue|TimeLimit|Partition|Account|QOS|NumNodes|NumCPUs|NumTasks|CPUs/Task|TRES"
    r"|MinMemoryNode|MinMemoryCPU|MinTmpDiskNode|TresPerNode|TresPerJob|OverSubscribe|Features)"
    r"=(\S+)"
)


class Submitter:
    """Renders a batch into a folder with an evil name, and submits it as the user."""

    def __init__(self, cluster: Any, workdir: Path, name: str) -> None:
        self.cluster = cluster
        self.folder = workdir / name
        self.ids: list[str] = []
        self.own(self.folder)
        # No blank in its own name: Slurm 22.05's proctrack/linuxproc would lose the process.
        self.python = self.folder / "python"
        self.python.write_text(JOB_SIDE)
        self.python.chmod(0o755)

    def own(self, folder: Path) -> None:
        folder.mkdir()
        owner = pwd.getpwnam(self.cluster.user)
        os.chown(folder, owner.pw_uid, owner.pw_gid)

    def batch(self, site: Site, resources: Resources, size: int = 1) -> tuple[Batch, Site]:
        here = Site.model_validate({**dict(site), "python": str(self.python)})
        spec = place(resources, here, max_duration=3600)
        batch_id = secrets.token_hex(6)
        made = Batch(batch_id, spec, size, self.folder / batch_id)
        self.own(made.folder)
        self.own(made.logs)
        made.script.write_text(render_script(made, here))
        made.script.chmod(0o755)
        return made, here

    def submit(self, way: str, batch: Batch, site: Site) -> str:
        if way == "drmaa":
            job = self.drmaa(batch, site)
        elif way == "pyslurm":
            job = self.pyslurm(batch, site)
        else:
            options = sbatch_words(batch, site) if way == "options" else ()
            job = self.cluster.run("sbatch", "--parsable", *options, batch.script).stdout
        self.ids.append(job.strip())
        return self.ids[-1]

    def drmaa(self, batch: Batch, site: Site) -> str:
        if self.cluster.drmaa_library is None:
            pytest.skip("no slurm-drmaa: name one with DRMAA_LIBRARY_PATH")
        words = self.folder / f"{batch.id}.json"
        words.write_text(
            json.dumps(
                {
                    "command": remote_command(batch),
                    "native": native_specification(batch, site),
                    "output": output_pattern(batch),
                    "folder": str(batch.folder),
                    "size": batch.size,
                }
            )
        )
        words.chmod(0o644)
        return str(
            self.cluster.run(
                "bash",
                "-c",
                'exec "$0" -c "$1" < "$2"',
                self.cluster.bin / "python",
                SUBMIT_BY_DRMAA,
                words,
                env={"DRMAA_LIBRARY_PATH": self.cluster.drmaa_library},
            ).stdout
        )

    def pyslurm(self, batch: Batch, site: Site) -> str:
        if not PYSLURM:
            pytest.skip("no pyslurm: HPCRUNNER_PYSLURM_PYTHON names no Python that has it")
        words = self.folder / f"{batch.id}.json"
        words.write_text(json.dumps(job_description(batch, site)))
        words.chmod(0o644)
        (packages,) = self.cluster.bin.parent.glob("lib/python*/site-packages")
        run = ("bash", "-c", 'exec "$0" -I -c "$1" "$3" < "$2"')
        done = self.cluster.run(*run, PYSLURM, SUBMIT_BY_PYSLURM, words, packages)
        return str(done.stdout)

    def wait(self, job: str) -> None:
        for _ in range(1800):
            asked = self.cluster.run("squeue", "-h", "-j", job, check=False)
            # No answer, as from a busy controller, is not the answer that it has ended.
            known = asked.returncode == 0 or "Invalid job id" in asked.stderr
            if known and not asked.stdout.strip():
                return
            time.sleep(0.1)
        raise AssertionError(f"job {job} does not end")

    def shape(self, job: str) -> set[tuple[str, str]]:
        shown = self.cluster.run("scontrol", "show", "job", job).stdout
        # Shown as a range of its two bounds until the scheduler has looked at the job.
        shown = shown.replace("NumNodes=1-1 ", "NumNodes=1 ")
        return set(SHAPE.findall(shown.split("\n\n")[0]))


@pytest.fixture
def evil(cluster: Any, workdir: Path) -> Iterator[Submitter]:
    submitter = Submitter(cluster, workdir, "we\"ird 'dir; $(touch pwned) %a #x é&")
    yield submitter
    for job in submitter.ids:
        submitter.cluster.run("scancel", job, check=False)


@pytest.fixture
def development() -> Site:
    return load_site(data_folder("site-configs") / "development-cluster.yaml")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [1, 3])
def test_an_evil_path_runs_the_intended_words(
    evil: Submitter, development: Site, way: str, size: int
) -> None:
    batch, site = evil.batch(development, Resources(cpus=2), size)
    evil.wait(evil.submit(way, batch, site))
    logs = {path.name: path.read_text().splitlines() for path in batch.logs.iterdir()}
    assert set(logs) == {f"{index}.out" for index in range(1, size + 1)}
    for name, lines in logs.items():
        index = name.removesuffix(".out")
        assert lines == [
            *("<-I>", "<-m>", "<hpcrunner.job>", f"<{batch.folder}>", f"<{index}>"),
            "srun has 2 of ALL",
        ]
    assert not list(evil.folder.parent.rglob("pwned"))


@pytest.mark.drmaa
@pytest.mark.parametrize("memory_syntax", ["mem", "mem-per-cpu", "none"])
@pytest.mark.parametrize("gpu_syntax", ["gres", "gpus-per-node", "gpus"])
@pytest.mark.parametrize("requeue", [True, False])
def test_all_ways_ask_slurm_for_the_same(
    evil: Submitter, development: Site, gpu_syntax: str, memory_syntax: str, requeue: bool
) -> None:
    keys = {"gpu_syntax": gpu_syntax, "memory_syntax": memory_syntax, "requeue": requeue}
    site = Site.model_validate({**dict(development), **keys, "directives": ["--constraint=a100"]})
    asked = Resources(cpus=3, gpus=2, gpu_memory=20 * 10**9, ram=1000 * 1024**2)
    shapes = {}
    for way in ("options", "header", "drmaa", *(["pyslurm"] if PYSLURM else [])):
        batch, here = evil.batch(site, asked)
        shapes[way] = evil.shape(evil.submit(way, batch, here))
    assert ("TimeLimit", "01:02:00") in shapes["options"]
    assert ("Requeue", "1" if requeue else "0") in shapes["options"]
    assert any(name == "TRES" and "gres/gpu:a100=2" in value for name, value in shapes["options"])
    assert shapes["header"] == shapes["options"]
    assert shapes.get("pyslurm", shapes["options"]) == shapes["options"]
    # The one known difference, without consequence on one node: docs/site-config.md.
    same = {("TresPerNode" if n == "TresPerJob" else n, value) for n, value in shapes["options"]}
    assert shapes["drmaa"] == same


GPU_HABITS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    # keys of the site, the GPU type, and the node that has it
    "typed": ({}, {"type": "a100"}, "n0"),
    "per node": ({"gpu_syntax": "gpus-per-node"}, {"type": "v100"}, "n1"),
    "constraint": ({}, {"name": "v", "constraint": "v100"}, "n1"),
    "joined": ({"directives": ["--constraint=a100"]}, {"name": "a", "constraint": "a100"}, "n0"),
}


@pytest.mark.drmaa
def test_each_habit_of_asking_gives_the_same_gpus_by_sbatch_and_by_drmaa(
    evil: Submitter, development: Site
) -> None:
    evil.python.write_text(
        "#!/bin/bash\necho $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES $SLURM_JOB_GPUS\n"
    )
    ran: dict[tuple[str, str], tuple[Batch, str]] = {}
    for habit, (keys, gpu, _) in GPU_HABITS.items():
        partition = {"name": "gpu", "gpus": [{**gpu, "memory": "40G", "count": 4}]}
        site = Site.model_validate({**dict(development), **keys, "partitions": [partition]})
        for way in ("options", "header", "drmaa"):
            batch, here = evil.batch(site, Resources(gpus=2))
            ran[habit, way] = batch, evil.submit(way, batch, here)
    for (habit, _), (batch, job) in ran.items():
        evil.wait(job)
        node, visible, given = (batch.logs / "1.out").read_text().split()
        assert node == GPU_HABITS[habit][2]
        assert visible == given
        assert len(set(visible.split(","))) == 2


@pytest.mark.parametrize("way", WAYS)
def test_a_cancelled_job_side_has_time_to_save(
    evil: Submitter, development: Site, way: str
) -> None:
    batch, site = evil.batch(development, Resources(cpus=1))
    (batch.folder / "1.wait").touch()
    job = evil.submit(way, batch, site)
    log = batch.logs / "1.out"
    _until(lambda: log.exists() and "waiting" in log.read_text())
    evil.cluster.run("scancel", job)
    evil.wait(job)
    assert log.read_text().splitlines()[-1] == "saved"


def _until(ready: Callable[[], bool]) -> None:
    for _ in range(1800):
        if ready():
            return
        time.sleep(0.1)
    raise AssertionError("it does not come")
