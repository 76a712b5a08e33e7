"""The drmaa, sbatch and pyslurm backends on real Slurm, as the cluster's ordinary user."""

from __future__ import annotations

import json
import os
import pwd
import re
import secrets
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slurm

HERE = Path(__file__).parent
BACKENDS = ["sbatch", pytest.param("drmaa", marks=pytest.mark.drmaa), "pyslurm"]
PYSLURM = os.environ.get("HPCRUNNER_PYSLURM_PYTHON", "")
MIB = 1 << 20


@dataclass
class Slurm:
    """One backend as the user has it; ids of batches are this test's own.

    ``names`` has the name of every job that was submitted here, by id.
    """

    cluster: Any
    checkout: Path
    folder: Path
    backend: str
    token: str = field(default_factory=lambda: secrets.token_hex(4))
    conf: str = ""
    names: dict[str, str] = field(default_factory=dict)

    def do(
        self, *steps: dict[str, Any], environ: dict[str, str] | None = None, **site: Any
    ) -> list[Any]:
        library = {
            "sbatch": {},
            "drmaa": {"drmaa": {"library": self.cluster.drmaa_library}},
            "pyslurm": {"pyslurm": {"python": PYSLURM}},
        }
        request = {
            "site": {
                "name": "test",
                "scheduler": self.backend,
                "account": self.cluster.facts["slurm"]["account"],
                **library[self.backend],
                **site,
            },
            "folder": str(self.folder),
            "environ": environ or {},
            "steps": [self._whole(step) for step in steps],
        }
        path = self.folder / f"request-{secrets.token_hex(4)}"
        path.write_text(json.dumps(request))
        path.chmod(0o644)
        variables = {"PYTHONPATH": str(self.checkout)}
        if self.conf:
            variables["SLURM_CONF"] = self.conf
        done = self.cluster.run(
            self.cluster.bin / "python", self.checkout / "as_user.py", path, env=variables,
            timeout=280,
        )  # fmt: skip
        first, *answers = json.loads(done.stdout)
        assert first == self.backend
        for step, answer in zip(steps, answers, strict=True):
            if step["do"] == "submit" and isinstance(answer, list):
                self.names |= dict.fromkeys(answer, f"hpcr-{step['id']}{self.token}")
        return answers

    def _whole(self, step: dict[str, Any]) -> dict[str, Any]:
        """The step with ids of batches made this test's own, and jobs as (id, name)."""
        step = dict(step)
        if "id" in step:
            step |= {"id": step["id"] + self.token, "folder": str(self.folder)}
        if "ids" in step:
            step["jobs"] = [(i, self.names.get(i, "hpcr-ff")) for i in step.pop("ids")]
        return step

    def batch(self, batch_id: str) -> Path:
        return self.folder / (batch_id + self.token)

    def log(self, batch_id: str, index: int = 1) -> str:
        return (self.batch(batch_id) / "logs" / f"{index}.out").read_text()


@pytest.fixture(params=BACKENDS)
def slurm(request: Any, cluster: Any, checkout: Path, workdir: Path) -> Slurm:
    return backend(request.param, cluster, checkout, workdir)


def backend(name: str, cluster: Any, checkout: Path, workdir: Path) -> Slurm:
    if name == "drmaa" and not cluster.drmaa_library:
        pytest.skip("no slurm-drmaa: DRMAA_LIBRARY_PATH names none")
    if name == "pyslurm" and not PYSLURM:
        pytest.skip("no pyslurm: HPCRUNNER_PYSLURM_PYTHON names no Python that has it")
    return Slurm(cluster, checkout, workdir, name)


def submit(batch_id: str, script: str = "true", size: int = 1, **spec: Any) -> dict[str, Any]:
    # Not a minute: Slurm may then announce its end (USR1) to a job that has just begun.
    spec = {"partition": "short", "memory": 20 * MIB, "time_limit": 120, **spec}
    return {"do": "submit", "id": batch_id, "script": script, "size": size, "spec": spec}


def shown(job_id: str) -> dict[str, str]:
    done = subprocess.run(
        ["scontrol", "--oneliner", "show", "job", job_id],
        capture_output=True,
        text=True,
        check=True,
    )
    # Shown as a range of its two bounds until the scheduler has looked at the job.
    return dict(re.findall(r"(\S+?)=(\S*)", done.stdout.replace("NumNodes=1-1 ", "NumNodes=1 ")))


@pytest.mark.parametrize("other", BACKENDS[1:])
def test_all_backends_ask_for_the_same_resources(
    cluster: Any, checkout: Path, workdir: Path, other: str
) -> None:
    spec = {
        "partition": "gpu",
        "cpus": 3,
        "memory": 300 * MIB,
        "time_limit": 3660,
        "gpus": 2,
        "gpu_type": "v100",
        "qos": "normal",
    }
    asked = []
    for name in ("sbatch", other):
        slurm = backend(name, cluster, checkout, workdir)
        [ids] = slurm.do(submit("a1", **spec))
        job = shown(ids[0])
        assert job["JobName"] == f"hpcr-a1{slurm.token}"
        assert job["Comment"] == f"hpcrunner:a1{slurm.token}"
        keys = (
            "Partition Account QOS NumNodes NumTasks CPUs/Task MinMemoryNode TimeLimit Requeue "
            "TresPerNode"
        )
        asked.append({key: job[key] for key in keys.split()})
        assert (Path(job["WorkDir"]), Path(job["StdOut"])) == (
            slurm.batch("a1"),
            slurm.batch("a1") / "logs" / "1.out",
        )
    assert asked[0] == asked[1]
    assert asked[0]["TresPerNode"] == "gres:gpu:v100:2"
    assert asked[0]["TimeLimit"] == "01:01:00"
    assert asked[0]["Requeue"] == "0"


def test_an_array_of_two_hundred_is_one_submission_and_each_task_runs_once(slurm: Slurm) -> None:
    script = "echo task $SLURM_ARRAY_TASK_ID"
    [ids] = slurm.do(submit("a1", script, size=200))
    base = ids[0].partition("_")[0]
    assert ids == [f"{base}_{index}" for index in range(1, 201)]
    [seen] = slurm.do({"do": "wait", "ids": ids, "seconds": 240})
    assert {s["reason"] for s in seen.values()} == {"COMPLETED"}
    for index in range(1, 201):
        assert slurm.log("a1", index) == f"task {index}\n"


def test_nothing_of_the_submitters_environment_is_visible_in_a_job(slurm: Slurm) -> None:
    environ = {
        "GATEWAY_SECRET": "leak",
        "SBATCH_PARTITION": "nope",
        "SLURM_JOB_NAME": "leak",
        "LD_LIBRARY_PATH": "/leak",
        "SQUEUE_FORMAT": "%i",
        "SLURM_TIME_FORMAT": "relative",
    }
    ids, seen = [], {}
    [ids] = slurm.do(submit("a1", "env -0 | tr '\\0' '\\n'"), environ=environ)
    [seen] = slurm.do({"do": "wait", "ids": ids, "seconds": 120}, environ=environ)
    assert seen[ids[0]]["reason"] == "COMPLETED"
    variables = dict(
        line.partition("=")[::2] for line in slurm.log("a1").splitlines() if "=" in line
    )
    assert "leak" not in " ".join(variables.values())
    unwanted = {"GATEWAY_SECRET", "SBATCH_PARTITION", "SQUEUE_FORMAT", "SLURM_TIME_FORMAT"}
    assert not (unwanted | {"LD_LIBRARY_PATH", "DRMAA_LIBRARY_PATH", "PYTHONPATH"}) & set(variables)
    assert variables["USER"] == slurm.cluster.user
    assert "/usr/bin" in variables["PATH"]


def test_a_folder_with_every_odd_character_works(slurm: Slurm) -> None:
    owner = pwd.getpwnam(slurm.cluster.user)
    slurm.folder = slurm.folder / "a b%j'c $HOME;&(d)"
    slurm.folder.mkdir()
    os.chown(slurm.folder, owner.pw_uid, owner.pw_gid)
    one, many = slurm.do(submit("a1", "pwd"), submit("a2", "pwd", size=2))
    slurm.do({"do": "wait", "ids": one + many, "seconds": 240})
    assert slurm.log("a1") == f"{slurm.batch('a1')}\n"
    assert slurm.log("a2", 2) == f"{slurm.batch('a2')}\n"


def test_refusals_are_told_from_limits_that_pass(slurm: Slurm) -> None:
    facts = slurm.cluster.facts["slurm"]
    refused = slurm.do(
        submit("a1", partition="nope"),
        submit("a2", size=3, qos="nope"),
        submit("a3", partition="gpu", gpus=1, gpu_type="h100"),
        submit("a4", size=5000),
        submit("a5", account="nope"),
    )
    assert [(next(iter(r)), r["passing"]) for r in refused] == [("refused", False)] * 5
    assert "nvalid partition" in refused[0]["refused"]
    most = facts["limited_max_submit"] + 1
    [limited] = slurm.do(submit("a6", size=most, account=facts["limited_account"]))
    assert limited["passing"] is True
    # Slurm keeps a record of a3, which it refused for its node configuration.
    verdicts = slurm.do(*({"do": "seek", "id": f"a{n}"} for n in (1, 2, 4, 5, 6)))
    assert verdicts == [["NOT_FOUND", None]] * 5


def test_a_batch_is_found_by_name_live_and_after_it_left_the_queue(slurm: Slurm) -> None:
    one, many = slurm.do(submit("a1", "sleep 20"), submit("a2", "true", size=3))
    assert slurm.do({"do": "seek", "id": "a1"}, {"do": "seek", "id": "a2", "size": 3}) == [
        ["FOUND", one],
        ["FOUND", many],
    ]
    slurm.do({"do": "cancel", "ids": one}, {"do": "wait", "ids": one + many, "seconds": 240})
    assert slurm.do(
        {"do": "seek", "id": "a1", "left": True},
        {"do": "seek", "id": "a2", "size": 3, "left": True},
        {"do": "seek", "id": "a3", "left": True},
    ) == [["FOUND", one], ["FOUND", many], ["NOT_FOUND", None]]


def test_each_ending_is_told_apart(cluster: Any, checkout: Path, workdir: Path) -> None:
    slurm = backend("sbatch", cluster, checkout, workdir)
    if cluster.facts["slurm"]["memory_enforced_by"] != "cgroup":
        pytest.skip("this machine cannot enforce memory by cgroups")
    hog = "/usr/bin/python3 -c 'x = bytearray(10**9)'"
    # A minute's limit, and nothing announced: else Slurm may do so to a job that has just begun.
    [limited] = slurm.do(submit("a6", "sleep 600", time_limit=60), grace=0)
    ids = [
        batch[0]
        for batch in slurm.do(
            submit("a1"),
            submit("a2", "exit 3"),
            submit("a3", "kill -9 $$"),
            submit("a4", f"exec {hog}", memory=60 * MIB),
            submit("a5", f"srun --mem=40 {hog}; exit 0", memory=100 * MIB),
            submit("a7", "sleep 600"),
            # More than the partition may have: waits for ever.
            submit("a8", partition="short", time_limit=7200),
        )
    ]
    ids.insert(5, limited[0])
    slurm.do({"do": "wait", "ids": [ids[6]], "seconds": 120, "state": "RUNNING"})
    slurm.do({"do": "cancel", "ids": [ids[6], ids[7]]})
    [seen] = slurm.do({"do": "wait", "ids": ids, "seconds": 240})
    assert [seen[i]["reason"] for i in ids] == [
        "COMPLETED",
        "SCHEDULER_FAILED",
        "SCHEDULER_FAILED",
        "OUT_OF_MEMORY",
        "OUT_OF_MEMORY",
        "TIME_LIMIT",
        "CANCELLED",
        "CANCELLED",
    ]
    assert seen[ids[1]]["exit_code"] == 3
    assert seen[ids[2]]["signal"] == 9
    assert seen[ids[0]]["exit_code"] == 0
    assert all(seen[i]["accounted"] for i in ids)
    assert seen[ids[7]]["started_at"] is None


def test_tasks_of_an_array_are_cancelled_one_by_one(slurm: Slurm) -> None:
    [ids] = slurm.do(submit("a1", "sleep 600", size=30, cpus=2))
    slurm.do({"do": "wait", "ids": ids[:1], "seconds": 120, "state": "RUNNING"})
    _, some = slurm.do(
        {"do": "cancel", "ids": [*ids[:2], *ids[20:], "999999999", "hpcr-ff"]},
        {"do": "wait", "ids": [*ids[:2], *ids[20:]], "seconds": 120},
    )
    assert {s["reason"] for s in some.values()} == {"CANCELLED"}
    [rest] = slurm.do({"do": "look_up", "ids": ids[2:20]})
    assert not [s for s in rest.values() if s["state"] == "ENDED"]
    _, rest = slurm.do({"do": "cancel", "ids": ids}, {"do": "wait", "ids": ids, "seconds": 240})
    assert {s["reason"] for s in rest.values()} == {"CANCELLED"}


def test_an_id_with_another_batchs_name_is_neither_found_nor_cancelled(slurm: Slurm) -> None:
    [ids] = slurm.do(submit("a1", "sleep 600", size=2))
    slurm.do({"do": "wait", "ids": ids, "seconds": 120, "state": "RUNNING"})
    others = [(job_id, f"hpcr-a2{slurm.token}") for job_id in ids]
    seen, _, kept = slurm.do(
        {"do": "look_up", "jobs": others},
        {"do": "cancel", "jobs": others},
        {"do": "look_up", "ids": ids},
    )
    assert {s["verdict"] for s in seen.values()} == {"NOT_FOUND"}
    assert {s["state"] for s in kept.values()} == {"RUNNING"}
    _, ended = slurm.do({"do": "cancel", "ids": ids}, {"do": "wait", "ids": ids, "seconds": 240})
    assert {s["reason"] for s in ended.values()} == {"CANCELLED"}


@pytest.fixture
def nobody_home(cluster: Any, workdir: Path) -> str:
    """A slurm.conf that points to ports where nobody listens."""
    text = Path(cluster.facts["slurm"]["conf"]).read_text()
    text = re.sub(r"(?m)^SlurmctldPort=.*", "SlurmctldPort=1", text)
    text = re.sub(r"(?m)^AccountingStoragePort=.*", "AccountingStoragePort=1", text)
    text += "\nMessageTimeout=2\n"
    conf = workdir / "slurm.conf"
    conf.write_text(text)
    conf.chmod(0o644)
    return str(conf)


def test_an_outage_is_unavailable_or_uncertain_and_never_absent(
    slurm: Slurm, nobody_home: str
) -> None:
    slurm.conf = nobody_home
    submitted, sought, seen, cancelled = slurm.do(
        submit("a1"),
        {"do": "seek", "id": "a1"},
        {"do": "look_up", "ids": ["1", "2_3"]},
        {"do": "cancel", "ids": ["1"]},
    )
    assert submitted.get("passing") or "uncertain" in submitted
    assert sought == ["UNAVAILABLE", None]
    assert {s["verdict"] for s in seen.values()} == {"UNAVAILABLE"}
    assert "unavailable" in cancelled
    slurm.conf = ""
    assert slurm.do({"do": "seek", "id": "a1"}) == [["NOT_FOUND", None]]


@pytest.mark.drmaa
def test_auto_takes_drmaa_where_its_library_answers_and_else_sbatch(
    cluster: Any, checkout: Path, workdir: Path
) -> None:
    drmaa = backend("drmaa", cluster, checkout, workdir)
    assert drmaa.do(scheduler="auto") == []
    without = backend("sbatch", cluster, checkout, workdir)
    broken = {"library": str(workdir / "libdrmaa.so")}
    assert without.do(scheduler="auto", drmaa=broken) == []
    assert without.do(scheduler="auto", directives=["--nice=100"]) == []
