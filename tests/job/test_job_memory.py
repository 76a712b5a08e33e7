"""What the kernel says about memory, read from its own files."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcrunner.job.ending import Ending, ending_of, with_memory
from hpcrunner.job.limits import Stop
from hpcrunner.job.memory import MemoryWitness, memory_cgroups, oom_kills
from hpcrunner.request.reasons import Reason

# As the development cluster (Slurm 22.05, cgroup v1) shows them within a job.
CGROUP_V1 = """\
9:name=systemd:/
8:pids:/
5:devices:/
4:memory:/slurm_n2/uid_1001/job_78/step_batch/task_0
3:cpuset:/
0::/
"""
OOM_CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
UNLIMITED_V1 = "9223372036854771712\n"
# The layout of Slurm's cgroup/v2 plugin, and memory.events of a Linux 6.1.
CGROUP_V2 = "0::/system.slice/slurmstepd.scope/job_78/step_batch/user/task_0\n"
EVENTS = "low 0\nhigh 0\nmax 137\noom 1\noom_kill {}\noom_group_kill 0\n"


def v1(root: Path, kills: int = 0) -> Path:
    task = root / "memory/slurm_n2/uid_1001/job_78/step_batch/task_0"
    task.mkdir(parents=True)
    (task / "memory.oom_control").write_text(OOM_CONTROL.format(kills))
    for folder, limit in ((task, UNLIMITED_V1), (task.parent, "314572800\n")):
        (folder / "memory.limit_in_bytes").write_text(limit)
    (task.parents[1] / "memory.limit_in_bytes").write_text("419430400\n")
    (task.parents[3] / "memory.limit_in_bytes").write_text("1\n")  # not the job's
    (root / "cgroup").write_text(CGROUP_V1)
    return task / "memory.oom_control"


def v2(root: Path, kills: int = 0) -> Path:
    task = root / CGROUP_V2.strip().removeprefix("0::/")
    task.mkdir(parents=True)
    (task / "memory.events").write_text(EVENTS.format(kills))
    for folder, limit in ((task, "max\n"), (task.parents[2], "1073741824\n")):
        (folder / "memory.max").write_text(limit)
    (root / "cgroup").write_text(CGROUP_V2)
    return task / "memory.events"


def watch(root: Path, job: str = "78") -> MemoryWitness:
    return MemoryWitness.of_this_job({"SLURM_JOB_ID": job}, root / "cgroup", root)


def test_a_kill_since_the_beginning_is_told_with_the_jobs_limit_cgroup_v1(tmp_path: Path) -> None:
    counter = v1(tmp_path)
    witness = watch(tmp_path)
    assert witness.says() is None
    counter.write_text(OOM_CONTROL.format(1))
    assert witness.says() == (
        "out of memory: the kernel killed a process of it at the job's limit of 315 MB"
    )


def test_a_kill_since_the_beginning_is_told_with_the_jobs_limit_cgroup_v2(tmp_path: Path) -> None:
    counter = v2(tmp_path, kills=2)
    witness = watch(tmp_path)
    assert witness.says() is None  # those were before us
    counter.write_text(EVENTS.format(5))
    assert witness.says() == (
        "out of memory: the kernel killed 3 processes of it at the job's limit of 1.1 GB"
    )


def test_a_cgroup_that_is_not_the_jobs_own_says_nothing(tmp_path: Path) -> None:
    counter = v1(tmp_path)
    witness = watch(tmp_path, job="7")
    counter.write_text(OOM_CONTROL.format(1))
    assert witness.says() is None
    assert MemoryWitness.of_this_job({}, tmp_path / "cgroup", tmp_path).folder is None


@pytest.mark.parametrize("text", ["", "garbage", "1:memory:/\n", "0::/job_78\n"])
def test_where_the_kernel_shows_no_counter_there_is_no_witness(tmp_path: Path, text: str) -> None:
    (tmp_path / "cgroup").write_text(text)
    assert watch(tmp_path).says() is None
    assert MemoryWitness.of_this_job({}, tmp_path / "none", tmp_path).says() is None


def test_a_cgroup_that_is_gone_at_the_end_says_nothing(tmp_path: Path) -> None:
    counter = v1(tmp_path)
    witness = watch(tmp_path)
    counter.unlink()
    assert witness.says() is None


def test_the_counters_of_all_kernels() -> None:
    assert oom_kills(OOM_CONTROL.format(12)) == 12
    assert oom_kills(EVENTS.format(3)) == 3
    assert oom_kills("oom_kill_disable 0\nunder_oom 0\n") is None  # before Linux 4.13
    assert memory_cgroups(CGROUP_V1)[0] == "memory/slurm_n2/uid_1001/job_78/step_batch/task_0"
    assert memory_cgroups("4:cpu,memory:/a\n") == ("memory/a",)


def test_what_the_kernel_killed_is_out_of_memory_whatever_the_payload_made_of_it() -> None:
    for code in (-9, 137, 1, 0):
        ending = with_memory(ending_of(code, None), "out of memory: …")
        assert ending.reason is Reason.OUT_OF_MEMORY
        assert ending.text.startswith("out of memory: …; ended ")
        assert ending.status == 137
    assert with_memory(ending_of(-9, None), None).reason is Reason.PAYLOAD_SIGNAL


def test_a_stop_keeps_its_reason_whatever_was_killed() -> None:
    stopped = ending_of(-9, Stop(Reason.TIME_LIMIT, "too long"))
    assert with_memory(stopped, "out of memory: …") == stopped
    refused = Ending(Reason.ARTIFACT_DENIED, "no")
    assert with_memory(refused, "out of memory: …") == refused
