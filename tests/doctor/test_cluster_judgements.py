"""The site's file against the cluster: what is told of each mistake, and that right is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hpcrunner.doctor.cards import is_amd, memory_known
from hpcrunner.doctor.finding import Finding, Verdict
from hpcrunner.doctor.slurm.accounts import judge_accounts
from hpcrunner.doctor.slurm.cluster import (
    judge_accounting,
    judge_clock,
    judge_commands,
    judge_limits,
)
from hpcrunner.doctor.slurm.detour import detour
from hpcrunner.doctor.slurm.facts import Facts
from hpcrunner.doctor.slurm.library import Library, judge_library
from hpcrunner.doctor.slurm.partitions import judge_partitions
from hpcrunner.schedulers.command import CommandFailed, Completed
from hpcrunner.schedulers.drmaa_session import Hello
from hpcrunner.sites.site import Site

GPU = {"type": "a100", "memory": "40G", "count": "4"}


def site(**keys: Any) -> Site:
    return Site.model_validate({"scheduler": "auto", "kill_wait": 5, **keys})


def partition(**keys: Any) -> dict[str, Any]:
    return {"name": "gpu", "max_time": "2-00:00:00", **keys}


def told(findings: list[Finding]) -> list[tuple[str, str, str]]:
    """Check, verdict and line of what is not well."""
    return [(f.check, f.verdict.value, f.line()) for f in findings if f.verdict is not Verdict.OK]


@pytest.mark.parametrize(
    ("entry", "check", "verdict", "words"),
    [
        ({"name": "gpus"}, "partitions", "fault", "no such partition; nearest: gpu; allowed: cpu"),
        ({"max_time": "3-00:00:00"}, "partitions", "fault", "Slurm allows 2-00:00:00"),
        ({"max_time": "UNLIMITED"}, "partitions", "warning", "no limit is given"),
        ({"max_cpus": "9"}, "partitions", "fault", "9, and its largest node gives 8; max_cpus: 8"),
        ({"max_memory": "8G"}, "partitions", "fault", "8192M, and its largest node has 7000M"),
        ({"gpus": [{**GPU, "type": "h100"}]}, "gpus", "fault", "type h100; its nodes have a100"),
        (
            {"gpus": [{**GPU, "type": "A100"}]},
            "gpus",
            "fault",
            "spelt a100; its nodes have a100, v",
        ),
        ({"gpus": [{**GPU, "count": "8"}]}, "gpus", "fault", "no node has more than 4; count: 4"),
        ({"gpus": [{**GPU, "memory": "96G"}]}, "gpus", "warning", "at most 80 GiB"),
        ({"gpus": [{**GPU, "shards": "4"}]}, "gpus", "fault", "no node has more than 0 for 4"),
        ({"gpus": [{**GPU, "constraint": "v100"}]}, "gpus", "fault", "with that constraint"),
        (
            {"gpus": [GPU], "directives": ["--constraint=v100"]},
            "gpus",
            "fault",
            "no node of the partition has GPUs of type a100",
        ),
    ],
)
def test_a_partition_that_is_not_so_is_told(
    entry: dict[str, Any], check: str, verdict: str, words: str, facts: Callable[..., Facts]
) -> None:
    found = told(list(judge_partitions(site(partitions=[partition(**entry)]), facts("22.05"))))
    assert [(c, v) for c, v, _ in found] == [(check, verdict)]
    assert words in found[0][2]
    assert "partitions[0] gpu" in found[0][2]


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"max_cpus": "8", "max_memory": "7000M", "gpus": [GPU], "max_time": "1-00:00:00"},
        {"gpus": [{**GPU, "type": ""}]},  # any that is there
        {"gpus": [{**GPU, "constraint": "a100"}]},
        {"gpus": [GPU], "directives": ["--constraint=a100|v100"]},  # not judged
    ],
)
def test_a_partition_that_is_so_is_well(entry: dict[str, Any], facts: Callable[..., Facts]) -> None:
    found = list(judge_partitions(site(partitions=[partition(**entry)]), facts("22.05")))
    assert [f.verdict for f in found] == [Verdict.OK]


def test_shards_are_counted(facts: Callable[..., Facts]) -> None:
    accel = {"name": "accel", "max_time": "1-12:00:00"}
    for shards, verdict in (("4", Verdict.OK), ("5", Verdict.FAULT)):
        entry = {**accel, "gpus": [{**GPU, "shards": shards}]}
        found = list(judge_partitions(site(partitions=[entry]), facts("23.11")))
        assert [f.verdict for f in found] == [verdict]


def test_a_partition_that_is_not_up_or_has_no_nodes_is_told(facts: Callable[..., Facts]) -> None:
    found = told(list(judge_partitions(site(partitions=[partition(name="old")]), facts("23.11"))))
    assert "is not up" in found[0][2]


def test_a_site_that_names_no_partitions_on_a_cluster_with_gpus_is_warned(
    facts: Callable[..., Facts],
) -> None:
    found = told(list(judge_partitions(site(), facts("22.05"))))
    assert [(check, verdict) for check, verdict, _ in found] == [("gpus", "warning")]


@pytest.mark.parametrize(
    ("keys", "check", "words"),
    [
        ({"account": "nobody"}, "account", "me is not in the account nobody; yours: limited, res"),
        ({"qos": "gold"}, "qos", "gold is not yours in the account research; yours: high, low"),
        ({"partitions": [partition(account="x")]}, "account", "partitions[0] gpu.account: me is"),
        ({"partitions": [partition(qos="x")]}, "qos", "partitions[0] gpu.qos: x is not yours"),
        ({"rules": [{"name": "r", "account": "x"}]}, "account", "rules[0] r.account: me is not"),
        ({"partitions": [partition(name="low")]}, "qos", "takes no jobs of the QOS normal; it ta"),
    ],
)
def test_an_account_or_qos_that_is_not_the_users_is_told(
    keys: dict[str, Any], check: str, words: str, facts: Callable[..., Facts]
) -> None:
    found = told(list(judge_accounts(site(**keys), facts("22.05"))))
    assert [(c, v) for c, v, _ in found] == [(check, "fault")]
    assert words in found[0][2]


def test_partitions_for_other_accounts_or_groups_are_told(facts: Callable[..., Facts]) -> None:
    entries = [{"name": "accel", "qos": "accel"}, {"name": "physics"}]
    found = told(list(judge_accounts(site(partitions=entries), facts("23.11"))))
    lines = [line for _, _, line in found]
    assert any("takes no jobs of the account general; yours that it takes: ml" in x for x in lines)
    assert any("takes jobs of the groups phys alone" in line for line in lines)


def test_whoever_is_in_no_account_is_told_where_that_counts(facts: Callable[..., Facts]) -> None:
    nobody = Completed("", "", 0)
    enforced = told(list(judge_accounts(site(), facts("22.05", show_assoc=nobody))))
    assert "is in no account" in enforced[0][2]
    assert told(list(judge_accounts(site(), facts("25.05")))) == []


def test_limits_of_the_cluster_are_compared(facts: Callable[..., Facts]) -> None:
    cluster = facts("22.05")
    assert told(list(judge_limits(site(), cluster))) == []
    large = {"max_array_size": 5000, "max_array_tasks": 4000}
    assert told(list(judge_limits(site(limits=large), cluster))) == [
        (
            "arrays",
            "fault",
            "limits.max_array_size: arrays of 4000 tasks, and MaxArraySize is 1001: larger ones "
            "are refused; max_array_size: 1001",
        )
    ]
    # A large MaxArraySize in the file does no harm where no array comes near it.
    assert told(list(judge_limits(site(limits={"max_array_size": 5000}), cluster))) == []
    assert "KillWait is 5 s" in told(list(judge_limits(site(kill_wait=30), cluster)))[0][2]
    assert told(list(judge_limits(site(kill_wait=1), cluster))) == []
    quick = {"accounting": {"mode": "none"}, "polling": {"ceiling": 600}}
    assert [c for c, _, _ in told(list(judge_limits(site(**quick), cluster)))] == ["polling"]


def test_a_cluster_without_arrays_gets_none(facts: Callable[..., Facts]) -> None:
    found = told(list(judge_limits(site(), facts("25.05"))))
    assert "max_array_tasks: 1" in found[0][2]
    single = site(limits={"max_array_tasks": 1})
    assert told(list(judge_limits(single, facts("25.05")))) == []


@pytest.mark.parametrize(
    ("version", "mode", "away", "verdict"),
    [
        ("22.05", "slurmdbd", False, "ok"),
        ("22.05", "slurmdbd", True, "fault"),
        ("22.05", "none", False, "warning"),
        ("22.05", "none", True, "ok"),
        ("25.05", "slurmdbd", False, "fault"),
        ("25.05", "none", False, "ok"),
    ],
)
def test_accounting_fits_what_the_site_says(
    version: str, mode: str, away: bool, verdict: str, facts: Callable[..., Facts]
) -> None:
    changed = {"sacct": Completed("", "sacct: error: Connection refused", 1)} if away else {}
    found = judge_accounting(site(accounting={"mode": mode}), facts(version, **changed))
    assert found.verdict.value == verdict


def test_commands_and_versions(facts: Callable[..., Facts]) -> None:
    assert told(list(judge_commands(site(), facts("22.05")))) == []
    other = Completed("slurm 23.02.7\n", "", 0)
    found = told(list(judge_commands(site(), facts("22.05", **{"scontrol_--version": other}))))
    assert "Slurm 22.05.8, and the commands here are 23.02.7" in found[0][2]
    away = CommandFailed("no answer within 25 s", where="scontrol", started=True)
    found = told(list(judge_commands(site(), facts("22.05", show_config=away))))
    assert [(c, v) for c, v, _ in found] == [("controller", "fault")]


def test_a_clock_far_from_the_controllers_is_told(facts: Callable[..., Facts]) -> None:
    assert judge_clock(facts("23.11")).verdict is Verdict.FAULT
    other = Completed("Configuration data as of 1700000012\nSLURM_VERSION = 22.05.8\n", "", 0)
    found = judge_clock(facts("22.05", show_config=other))
    assert (found.verdict, found.what[:13]) == (Verdict.WARNING, "12.5 s behind")


@pytest.mark.parametrize(
    ("scheduler", "library", "verdict", "words"),
    [
        ("auto", Library("", False, trouble="no library"), "ok", "jobs go through sbatch"),
        ("drmaa", Library("", False, trouble="no library"), "fault", "no library"),
        ("auto", Library("/lib.so", True, trouble="no such file"), "fault", "no such file"),
        ("auto", Library("", False, Hello("SLURM 22.05.8", "i", "1", "")), "ok", "22.05.8"),
        ("auto", Library("", False, Hello("SLURM 21.08.1", "i", "1", "")), "fault", "built for"),
        ("auto", Library("", False, Hello("SLURM", "i", "1", "")), "warning", "no version"),
    ],
)
def test_the_drmaa_library_is_judged(
    scheduler: str, library: Library, verdict: str, words: str
) -> None:
    found = judge_library(site(scheduler=scheduler), library, "22.05.8")
    assert found.verdict.value == verdict
    assert words in found.line()


def test_the_probe_goes_round_what_no_job_can_pass(facts: Callable[..., Facts]) -> None:
    cluster = facts("22.05")
    entries = [
        {"name": "ghost"},
        {"name": "cpu"},
        {"name": "gpu", "gpus_only": True, "gpus": [{**GPU, "type": "h100"}, GPU]},
        {"name": "short", "account": "nobody"},
        {"name": "low", "gpus_only": True, "gpus": [{**GPU, "type": "h100"}]},
    ]
    faulty = site(account="nobody", partitions=entries, scheduler="drmaa")
    changes, differs = detour(faulty, cluster, backend=False)
    kept = [(p.name, [g.type for g in p.gpus]) for p in changes["partitions"]]
    assert kept == [("cpu", []), ("gpu", ["a100"])]
    assert (changes["account"], changes["scheduler"]) == (None, "sbatch")
    assert differs == [
        "without the account nobody",
        "without the partition(s) ghost, short, low",
        "through sbatch",
    ]
    assert detour(site(partitions=entries[1:2]), cluster, backend=True) == ({}, [])


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("a100", (40, 80)),
        ("nvidia_a100-sxm4-80gb", (80,)),
        ("tesla_v100", (16, 32)),
        ("a100_3g.20gb", (20,)),
        ("l40s", (48,)),
        ("l4", (24,)),
        ("rtx_2080_ti", (11,)),
        ("geforce_rtx_2080_ti", (11,)),
        ("rtx3090", (24,)),
        ("a1000", ()),
        ("warp9", ()),
        ("", ()),
        ("mi250x", (64,)),
    ],
)
def test_the_memory_of_well_known_cards(name: str, sizes: tuple[int, ...]) -> None:
    assert memory_known(name) == sizes
    assert is_amd(name) is name.startswith("mi")
