"""The fake says what Slurm says, and refuses what hpcrunner should not say."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from slurm.cluster import DOWN, HANGS, Cluster, Fault
from slurm.commands import answer
from slurm.program import install
from slurm.runner import FakeRunner
from slurm.store import Store

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.native import sbatch_words
from hpcrunner.schedulers import sacct, sbatch, scancel, squeue
from hpcrunner.schedulers.command import CommandFailed, Completed
from hpcrunner.schedulers.contract import Job
from hpcrunner.schedulers.slurm_environment import query_environment
from hpcrunner.sites.site import Site
from hpcrunner.sites.spec import JobSpec

ENVIRONMENT = query_environment({})
NOW = 1_800_000_000.0


def submit(cluster: Cluster, size: int = 1, name: str = "ab", now: float = NOW) -> int:
    batch = Batch(name, JobSpec(), size, Path("/spool") / name)
    argv = sbatch.argv(batch, sbatch_words(batch, Site()))
    given = answer(cluster, argv, ENVIRONMENT, now)
    return int(sbatch.parse(Completed(given.stdout, given.stderr, given.status)))


def ask(cluster: Cluster, argv: Sequence[str], now: float = NOW) -> Completed:
    given = answer(cluster, list(argv), ENVIRONMENT, now)
    return Completed(given.stdout, given.stderr, given.status)


def live(cluster: Cluster, now: float = NOW) -> dict[str, str]:
    return {job.job_id: job.word for job in squeue.parse(ask(cluster, squeue.ARGV, now))}


def accounted(cluster: Cluster, base: int, now: float = NOW) -> sacct.Accounts:
    (argv,) = sacct.argvs([str(base)])
    return sacct.parse(ask(cluster, argv, now))


@pytest.mark.parametrize(
    "argv",
    [
        ["squeue", "--me", "--long"],
        [*squeue.ARGV, "--name=hpcr-ab"],
        ["sacct", "--parsable2", "--noheader", "--jobs=1", "--format=JobID,Elapsed"],
        ["scancel", "--full", "1"],
        ["sbatch", "--parsable", "--wrap=true", "script"],
        ["scontrol", "show", "job", "1"],
    ],
)
def test_an_option_that_hpcrunner_never_used_is_refused_and_noted(argv: list[str]) -> None:
    cluster = Cluster()
    submit(cluster)
    assert ask(cluster, argv).returncode != 0
    assert cluster.complaints


def test_waiting_tasks_that_are_cancelled_leave_no_trace_and_the_last_ones_a_record() -> None:
    """As seen on 22.05.8: the record loses its index, and accounting keeps the first list."""
    cluster = Cluster()
    base = submit(cluster, 6)
    for word in scancel.argvs([f"{base}_2", f"{base}_4"]):
        ask(cluster, word)
    assert live(cluster) == {f"{base}_{n}": "PENDING" for n in (1, 3, 5, 6)}
    ask(cluster, ["scancel", f"{base}_[1,3,5-6]"])
    assert live(cluster) == {str(base): "CANCELLED"}
    found = accounted(cluster, base)
    assert {n: getattr(found.find(Job(f"{base}_{n}", "hpcr-ab")), "word", "") for n in (1, 2)} == {
        1: "CANCELLED",
        2: "CANCELLED",
    }


def test_accounts_show_after_the_lag_and_jobs_go_after_min_job_age() -> None:
    cluster = Cluster(min_job_age=300)
    base = submit(cluster)
    cluster.lag = 60.0
    cluster.start(base, None, "n1", NOW)
    cluster.end(base, None, "FAILED", NOW + 10, code=3)
    assert accounted(cluster, base, NOW + 20).jobs[str(base)].word == "PENDING"
    job = accounted(cluster, base, NOW + 80).jobs[str(base)]
    assert (job.word, job.exit_code, job.node) == ("FAILED", 3, "n1")
    assert live(cluster, NOW + 300) == {str(base): "FAILED"}
    assert live(cluster, NOW + 320) == {}


def test_a_requeued_job_waits_again_under_its_id_beside_its_first_account() -> None:
    cluster = Cluster()
    base = submit(cluster)
    cluster.start(base, None, "n1", NOW)
    cluster.requeue(base, None, NOW + 5)
    assert live(cluster) == {str(base): "COMPLETING"}
    cluster.completed(base, None, NOW + 6)
    assert live(cluster) == {str(base): "PENDING"}
    assert accounted(cluster, base, NOW + 7).jobs[str(base)].word == "REQUEUED"
    variables = cluster.start(base, None, "n2", NOW + 130)
    assert variables["SLURM_RESTART_COUNT"] == "1"
    assert accounted(cluster, base, NOW + 130).jobs[str(base)].word == "RUNNING"


def test_servers_that_are_down_say_so_and_those_that_hang_say_nothing() -> None:
    cluster = Cluster()
    base = submit(cluster)
    cluster.controller = cluster.database = DOWN
    assert ask(cluster, squeue.ARGV).returncode == 1
    assert "connect failure" in ask(cluster, ["scancel", str(base)]).stderr
    assert "Connection refused" in ask(cluster, next(sacct.argvs(["1"]))).stderr
    cluster.controller = HANGS
    with pytest.raises(CommandFailed):
        FakeRunner(cluster, lambda: NOW)(squeue.ARGV, timeout=5, environment=ENVIRONMENT)


def test_the_executables_share_one_cluster_and_start_fast(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "cluster"))
    cluster = Cluster()
    submit(cluster, 3, now=time.time())
    cluster.faults.append(Fault("squeue", "killed", 0.5))
    store.create(cluster)
    install(str(tmp_path / "bin"), store.path)
    argv = [str(tmp_path / "bin" / "squeue"), *squeue.ARGV[1:]]
    cut = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True)
    whole = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True)
    assert (cut.returncode, len(whole.stdout.splitlines())) == (-9, 3)
    assert whole.stdout.startswith(cut.stdout)
    with store.open() as cluster:
        assert cluster.calls[-2:] == ["squeue", "squeue"]


@pytest.mark.slurm
def test_a_real_cluster_says_the_same_of_the_same_jobs(cluster: Any, workdir: Path) -> None:
    name = f"hpcr-{secrets.token_hex(6)}"
    options = ["--parsable", f"--job-name={name}", "--partition=short", "--mem=20"]
    options += [f"--account={cluster.facts['slurm']['account']}", "--output=/dev/null"]
    real = {
        "array": [*options, "--array=1-2", "--wrap=true"],
        "fails": [*options, "--wrap=exit 3"],
        "waits": [*options, "--begin=now+1hour", "--wrap=true"],
    }
    ids = {what: cluster.run("sbatch", *words).stdout.strip() for what, words in real.items()}
    cluster.run("scancel", ids["waits"])

    def run(argv: Sequence[str]) -> Completed:
        variables = {k: v for k, v in ENVIRONMENT.items() if k.startswith(("SLURM_", "LC_"))}
        done = cluster.run(*argv, env=variables)
        return Completed(done.stdout, done.stderr, done.returncode)

    end = time.monotonic() + 150
    # Accounting is a moment behind.
    while told(run, name, ids) != told_by_the_fake(name) and time.monotonic() < end:
        time.sleep(1)
    assert told(run, name, ids) == told_by_the_fake(name)


def told_by_the_fake(name: str) -> Any:
    fake = Cluster()
    marker = name.removeprefix("hpcr-")
    ids = {
        "array": str(submit(fake, 2, marker)),
        "fails": str(submit(fake, 1, marker)),
        "waits": str(submit(fake, 1, marker)),
    }
    ask(fake, ["scancel", ids["waits"]])
    for index in (1, 2):
        fake.start(int(ids["array"]), index, "n1", NOW)
        fake.end(int(ids["array"]), index, "COMPLETED", NOW)
    fake.start(int(ids["fails"]), None, "n1", NOW)
    fake.end(int(ids["fails"]), None, "FAILED", NOW, code=3)
    return told(lambda argv: ask(fake, argv), name, ids)


def told(run: Callable[[Sequence[str]], Completed], name: str, ids: dict[str, str]) -> Any:
    """What both witnesses say of these jobs, ids replaced by what the jobs do."""
    what = {base: do for do, base in ids.items()}
    jobs = [job for job in squeue.parse(run(squeue.ARGV)) if job.name == name]
    words = {(what[j.base], j.index): j.word for j in jobs}
    nodes = {(what[j.base], j.index): bool(j.node) for j in jobs}
    accounts = sacct.parse(run(next(sacct.argvs(list(ids.values())))))
    rows = {
        (what[row.base], row.index): (
            row.name,
            row.word,
            row.exit_code,
            row.signal,
            bool(row.node),
            row.ended_at is not None,
            row.step_words,
        )
        for row in accounts.all()
    }
    return words, nodes, rows
