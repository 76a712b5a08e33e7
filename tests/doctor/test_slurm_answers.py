"""What is read out of Slurm's answers, in the forms of several versions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hpcrunner.doctor.slurm.facts import Facts
from hpcrunner.doctor.slurm.show import gpus_of
from hpcrunner.schedulers.command import CommandFailed, Completed

GIB = 1 << 30


@pytest.mark.parametrize(
    ("gres", "found"),
    [
        ("(null)", {}),
        ("gpu:a100:4(S:0-1)", {"a100": 4}),
        ("gpu:4", {"": 4}),
        ("gpu:8(S:0,2)", {"": 8}),
        ("gpu", {"": 1}),
        ("gpu:tesla_v100:4(IDX:0-3)", {"tesla_v100": 4}),
        ("gpu:a100:2(S:0),gpu:v100:1(S:1),mps:300", {"a100": 2, "v100": 1}),
        ("gpu:a100_1g.5gb:7(S:1)", {"a100_1g.5gb": 7}),
        ("shard:a100:16(S:0-1),gpu:a100:4", {"a100": 4}),
        ("gpu:a100:no_consume:2", {"a100": 2}),
        ("nic:2", {}),
    ],
)
def test_gpus_are_counted_by_type(gres: str, found: dict[str, int]) -> None:
    assert dict(gpus_of(gres)) == found


def test_slurm_20_11_is_read(facts: Callable[..., Facts]) -> None:
    cluster = facts("20.11")
    assert not cluster.troubles
    names = [partition.name for partition in cluster.partitions]
    assert names == ["normal", "gpu", "admin"]
    normal, gpu, admin = cluster.partitions
    assert (normal.default, normal.max_time) == (True, 5 * 86400)
    assert (gpu.max_time, gpu.max_cpus) == (None, 32)
    assert admin.root_only and admin.hidden
    nodes = {node.name: node for node in cluster.nodes}
    # What the system keeps for itself is no job's.
    assert nodes["cn001"].memory == (190000 - 4096) << 20
    assert nodes["gn01"].cpus == 38
    assert nodes["gn01"].gpus == (("tesla_v100", 4),)
    assert not nodes["cn003"].usable and nodes["cn004"].usable
    assert nodes["cn004"].features == ("skylake", "ib", "bigmem")
    assert [row.account for row in cluster.associations] == ["hpc-lab"]  # not other clusters'
    assert cluster.default_account == "hpc-lab"


def test_slurm_23_11_is_read(facts: Callable[..., Facts]) -> None:
    cluster = facts("23.11")
    batch, accel, physics, old = cluster.partitions
    assert batch.whole_nodes and batch.deny_qos == ("gpuonly",)
    assert accel.allow_accounts == ("ml", "vision")
    assert accel.allow_qos == ("accel", "accel-long")
    assert physics.allow_groups == ("phys",)
    assert not old.up
    nodes = {node.name: node for node in cluster.nodes}
    assert nodes["w1"].cpus == 252 and nodes["w1"].usable
    assert (nodes["a1"].gpus, nodes["a1"].shards) == ((("a100", 4),), 16)
    assert not nodes["a2"].usable
    assert dict(nodes["a2"].gpus) == {"a100_3g.20gb": 8, "a100_1g.5gb": 7}


def test_slurm_25_05_without_accounting_is_read(facts: Callable[..., Facts]) -> None:
    cluster = facts("25.05")
    assert not cluster.config.accounting
    assert cluster.config.max_array_size == 0
    assert [dict(node.gpus) for node in cluster.nodes] == [{"mi250x": 8}, {"": 8}]
    assert cluster.nodes[1].usable  # powered down, and started for the job that needs it


def test_the_controllers_clock_is_compared_in_the_middle_of_the_question(
    facts: Callable[..., Facts],
) -> None:
    assert facts("23.11").skew == pytest.approx(1_700_000_000 - 1_711_000_000.5)


def test_a_controller_that_is_away_is_asked_once(facts: Callable[..., Facts]) -> None:
    away = CommandFailed("no answer within 25 s", where="scontrol", started=True)
    cluster = facts("22.05", show_config=away)
    assert {trouble.what for trouble in cluster.troubles.values()} == {away.what}
    assert cluster.partitions == () and not cluster.has("partitions")


def test_accounting_that_is_away_hides_associations_and_nothing_else(
    facts: Callable[..., Facts],
) -> None:
    error = "sacct: error: slurm_persist_conn_open: Connection refused\n"
    cluster = facts("22.05", sacct=Completed("", error, 1))
    assert not cluster.has("accounting") and not cluster.has("associations")
    assert cluster.has("partitions") and len(cluster.nodes) == 3
