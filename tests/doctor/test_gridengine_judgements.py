"""A site's file against a cell of Grid Engine, as qconf(1) tells of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from hpcrunner.doctor.edge import Edge
from hpcrunner.doctor.finding import Finding, Verdict
from hpcrunner.doctor.gridengine import (
    Cell,
    ask_cell,
    judge_accounting,
    judge_arrays,
    judge_environment,
    judge_hosts,
    judge_projects,
    judge_queues,
    judge_resources,
    resources,
    settings,
)
from hpcrunner.schedulers.command import Completed
from hpcrunner.sites.site import Site

COMPLEXES = """\
#name               shortcut   type      relop requestable consumable default  urgency
#--------------------------------------------------------------------------------------
gpu                 gpu        INT       <=    YES         JOB        0        0
h_vmem              h_vmem     MEMORY    <=    YES         YES        2G       0
mem_free            mf         MEMORY    <=    YES         NO         0        0
np_load_avg         nla        DOUBLE    >=    NO          NO         0        0
# >#< starts a comment but comments are not saved across edits --------
"""
CELL = Cell(
    version="SGE 8.1.9",
    queues={"all.q": {"h_rt": "24:00:00,[bigmem=72:00:00]", "notify": "00:00:60"}},
    queue_names=("all.q", "short.q"),
    environments=("mpi", "smp"),
    environment={"allocation_rule": "$pe_slots"},
    projects=("research",),
    resources=resources(COMPLEXES),
    most_tasks=1000,
)


def site(**keys: Any) -> Site:
    partitions = keys.pop("partitions", [{"name": "all.q", "max_time": "24:00:00"}])
    return Site.model_validate({"scheduler": "gridengine", "partitions": partitions, **keys})


def told(findings: Sequence[Finding]) -> list[str]:
    return [f"{f.check}: {f.line()}" for f in findings if f.verdict is not Verdict.OK]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"partitions": [{"name": "gpu.q"}]}, ["no such queue; allowed: all.q, short.q"]),
        ({"partitions": [{"name": "all.q", "max_time": "48:00:00"}]}, ["than the queue's h_rt"]),
        ({"kill_wait": 90}, ["90 s, and the queue all.q kills 60 s after its notice"]),
        ({"partitions": [{"name": "all.q@@fast", "max_time": "01:00:00"}]}, []),
        ({}, []),
    ],
)
def test_queues(keys: dict[str, Any], words: list[str]) -> None:
    found = told(list(judge_queues(site(**keys), CELL)))
    assert len(found) == len(words)
    assert all(text in line for text, line in zip(words, found, strict=True))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"memory_resources": ["h_vmem", "mf"]}, []),
        ({"memory_resources": ["mem"]}, ["no resource mem"]),
        ({"memory_resources": ["np_load_avg"]}, ["may not be asked for"]),
        ({"memory_per": "job"}, ["h_vmem counts for each slot, not for each job"]),
        ({"gpus_per": "slot"}, ["gpus_per: job"]),
        ({"gpu_resource": "ngpus"}, ["no resource ngpus"]),
    ],
)
def test_resources(keys: dict[str, Any], words: list[str]) -> None:
    gpu = {"name": "all.q", "gpus": [{"memory": "16G", "count": "4"}]}
    found = told(list(judge_resources(site(gridengine=keys, partitions=[gpu]), CELL)))
    assert len(found) == len(words)
    assert all(text in line for text, line in zip(words, found, strict=True))


def test_parallel_environment_project_and_arrays() -> None:
    assert told(list(judge_environment(site(), CELL))) == []
    shared = site(gridengine={"parallel_environment": "shm"})
    assert "allowed: mpi, smp" in told(list(judge_environment(shared, CELL)))[0]
    spread = Cell(environments=("smp",), environment={"allocation_rule": "$round_robin"})
    assert "slots on several hosts" in told(list(judge_environment(site(), spread)))[0]
    assert told(list(judge_projects(site(account="research"), CELL))) == []
    assert "no project x" in told(list(judge_projects(site(account="x"), CELL)))[0]
    large = site(limits={"max_array_size": 9000, "max_array_tasks": 8000})
    assert "max_aj_tasks is 1000" in told(list(judge_arrays(large, CELL)))[0]
    assert told(list(judge_arrays(site(), CELL))) == []


@pytest.mark.parametrize(
    ("mode", "trouble", "verdict"),
    [("qacct", "", "ok"), ("qacct", "x", "fault"), ("none", "", "warning"), ("none", "x", "ok")],
)
def test_accounting(mode: str, trouble: str, verdict: str) -> None:
    found = judge_accounting(site(accounting={"mode": mode}), trouble)
    assert found.verdict.value == verdict


def test_settings_go_on_after_a_backslash() -> None:
    text = "#global:\nmax_aj_tasks 1000\nreporting_params accounting=true \\\n   flush=1\nempty\n"
    found = settings(text)
    assert found["max_aj_tasks"] == "1000" and found["empty"] == ""
    assert found["reporting_params"].split() == ["accounting=true", "flush=1"]


def test_a_master_that_is_away_hinders_the_probe(edge: Callable[..., Edge]) -> None:
    commands = ["qstat", "qdel", "qacct", "qconf"]
    error = "error: commlib error: got select error (Connection refused)\n"
    found = ask_cell(site(), edge({"qconf": Completed("", error, 1)}, commands))
    assert found.hindered == "the cluster does not answer"
    assert told(found.findings)[0].startswith("controller: qconf: failed (error: commlib error")


def test_commands_that_are_not_there_are_told(edge: Callable[..., Edge]) -> None:
    found = ask_cell(site(), edge({}, ["qstat"]))
    assert "no qdel, qacct, qconf" in told(found.findings)[0] and found.hindered


def test_what_becomes_of_the_jobs_of_a_silent_host_is_told() -> None:
    quick = replace(CELL, unheard=300, reschedule=60)
    assert (
        "shown as running until it is back"
        in judge_hosts(site(), replace(quick, reschedule=0)).what
    )
    assert judge_hosts(site(requeue=True), quick).what.endswith(
        "its jobs wait again 60 s later (reschedule_unknown)"
    )
    assert "with requeue: true" in judge_hosts(site(), quick).what
    assert judge_hosts(site(), CELL).verdict is Verdict.NOT_TRIED
