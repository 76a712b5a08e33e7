"""The first site file: sound, true to the cluster, and written over nothing."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcrunner.doctor.finding import Finding, Verdict
from hpcrunner.doctor.first_site import CannotWrite, write_site
from hpcrunner.doctor.slurm.accounts import judge_accounts
from hpcrunner.doctor.slurm.cluster import judge_accounting, judge_limits
from hpcrunner.doctor.slurm.draft import draft, file_name
from hpcrunner.doctor.slurm.facts import Facts
from hpcrunner.doctor.slurm.partitions import judge_partitions
from hpcrunner.schedulers.command import Completed
from hpcrunner.sites.load import load_site
from hpcrunner.sites.problems import SiteError
from hpcrunner.sites.site import Site

OUTPUTS = Path(__file__).parent / "outputs"


def written(facts: Facts, folder: Path) -> Site:
    path = folder / "first.yaml"
    write_site(path, draft(facts, "first", "first", {}))
    return load_site(path)


@pytest.mark.parametrize("version", ["20.11", "22.05", "23.11", "25.05"])
def test_a_first_site_file_is_sound_and_its_doctor_finds_nothing(
    version: str, facts: Callable[..., Facts], tmp_path: Path
) -> None:
    cluster = facts(version)
    site = written(cluster, tmp_path)
    found: list[Finding] = [
        *judge_partitions(site, cluster),
        *judge_accounts(site, cluster),
        *judge_limits(site, cluster),
        judge_accounting(site, cluster),
    ]
    assert [f.line() for f in found if f.verdict is not Verdict.OK] in (
        [],
        # On this one a node of the kind is drained, and no other has it.
        ["partitions[2] accel: none of its nodes is up now; see sinfo -R"],
    )


def test_partitions_come_with_their_kinds_of_nodes(
    facts: Callable[..., Facts], tmp_path: Path
) -> None:
    site = written(facts("22.05"), tmp_path)
    assert [(p.name, [g.type for g in p.gpus], p.gpus_only) for p in site.partitions] == [
        ("cpu", [], False),
        ("short", [], False),
        ("low", [], False),
        *((name, [gpu], True) for name in ("gpu", "short", "low") for gpu in ("a100", "v100")),
    ]
    gpu = next(p for p in site.partitions if p.name == "gpu")
    assert (gpu.max_time, gpu.max_cpus, gpu.max_memory) == (2 * 86400, 8, 7000 << 20)
    assert gpu.gpus[0].memory == 40 << 30 and gpu.gpus[0].count == 4
    assert {p.qos for p in site.partitions if p.name == "low"} == {"low"}
    assert (site.account, site.kill_wait, site.limits.max_array_size) == ("research", 5, 1001)
    assert site.limits.max_jobs == 500  # the limit of the other account is not this one's
    assert site.drmaa.gres_prefix == "gres:"


def test_what_is_not_for_this_user_is_left_out_and_named(facts: Callable[..., Facts]) -> None:
    text = draft(facts("23.11"), "x", "x", {"apptainer": "/usr/bin/apptainer"})
    assert "# Left out: physics (for the groups phys)." in text
    assert "# Left out: old (not up)." in text
    assert "name: physics" not in text and "name: old" not in text
    assert "# Left out: admin (for root alone)." in draft(facts("20.11"), "x", "x", {})


def test_an_account_and_qos_that_a_partition_lets_in_are_named_there(
    facts: Callable[..., Facts], tmp_path: Path
) -> None:
    site = written(facts("23.11"), tmp_path)
    assert site.account == "general" and site.limits.max_jobs == 200
    accel = [p for p in site.partitions if p.name == "accel"]
    assert {(p.account, p.qos) for p in accel} == {("ml", "accel")}
    assert site.drmaa.gres_prefix == "gres/"


def test_cards_that_nobody_knows_are_marked_and_promise_little(
    facts: Callable[..., Facts], tmp_path: Path
) -> None:
    text = draft(facts("23.11"), "x", "x", {})
    line = next(line for line in text.splitlines() if "warp9" in line)
    assert "CHECK" in line
    site = written(facts("23.11"), tmp_path)
    sizes = {gpu.type: gpu.memory >> 30 for p in site.partitions for gpu in p.gpus}
    assert sizes == {"a100": 40, "a100_3g.20gb": 20, "a100_1g.5gb": 5, "warp9": 1}


def test_amd_cards_and_cards_without_a_type(facts: Callable[..., Facts], tmp_path: Path) -> None:
    cluster = facts("25.05")
    text = draft(cluster, "x", "x", {})
    site = written(cluster, tmp_path)
    gpus = {gpu.type: (gpu.vendor, gpu.memory >> 30) for p in site.partitions for gpu in p.gpus}
    assert gpus == {"mi250x": ("amd", 64), "": ("amd", 64)}
    assert "gres.conf names no type" in text
    assert site.accounting.mode == "none" and site.limits.largest_array == 1


def test_whole_nodes_and_rarer_nodes_are_told(facts: Callable[..., Facts]) -> None:
    assert "jobs get whole nodes here" in draft(facts("23.11"), "x", "x", {})
    text = draft(facts("20.11"), "x", "x", {})
    assert "1 more with 36 CPUs, 1495904M" in text
    assert "max_memory: 185904M" in text  # what most of its nodes have


def test_an_odd_cluster_makes_this_very_file(facts: Callable[..., Facts], tmp_path: Path) -> None:
    """What public listings of real clusters hold: several sockets, parts of cards, shards, names
    with signs, features with signs, nodes that never told their size, power saving.
    """
    cluster = facts("odd")
    text = draft(cluster, "odd", "odd", {})
    golden = OUTPUTS / "odd" / "first.yaml"
    if os.environ.get("HPCRUNNER_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
    site = written(cluster, tmp_path)
    found = [*judge_partitions(site, cluster), *judge_accounts(site, cluster)]
    assert [f.line() for f in found if f.verdict is not Verdict.OK] == []


def test_the_memory_of_nodes_that_slurm_knows_none_of_is_not_asked_for(
    facts: Callable[..., Facts], tmp_path: Path
) -> None:
    nodes = (OUTPUTS / "odd" / "node").read_text()
    site = written(
        facts("odd", show_node=told(re.sub("RealMemory=[0-9]+", "RealMemory=1", nodes))), tmp_path
    )
    assert site.memory_syntax == "none"
    assert {partition.max_memory for partition in site.partitions} == {None}


NAMES = st.text(st.sampled_from("aZ09_+-@.,:&|#'\"{}[]*! é\\\x07"), min_size=1, max_size=8)
GRES = st.sampled_from(["gpu:{0}:4(S:0-1)", "gpu:{0}", "gpu:2", "shard:{0}:8", "{0}", "gpu:{0}:0"])
SIZES = st.sampled_from(["0", "1", "2", "512000", "N/A", "UNLIMITED"])
TIMES = st.sampled_from(["UNLIMITED", "0", "1-12", "30:00", "00:00:01", "NONE", "7-00:00:00"])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_a_cluster_says_of_itself_the_file_is_sound(
    facts: Callable[..., Facts], data: st.DataObject
) -> None:
    partition, card, feature, account = (data.draw(NAMES) for _ in range(4))
    cluster = facts(
        "odd",
        show_partition=told(
            f"PartitionName={partition} Default=YES MaxTime={data.draw(TIMES)} MinNodes=1"
            f" MaxCPUsPerNode={data.draw(SIZES)} MaxMemPerNode={data.draw(SIZES)} State=UP\n"
        ),
        show_node=told(
            f"NodeName=n1 CPUTot={data.draw(SIZES)} RealMemory={data.draw(SIZES)} State=IDLE"
            f" Gres={data.draw(GRES).format(card)} AvailableFeatures={feature}"
            f" Partitions={partition}\n"
        ),
        show_assoc=told(f"grid-7.example|{account}||{feature},{card}|{card}|\n"),
    )
    with tempfile.TemporaryDirectory() as folder:
        written(cluster, Path(folder))


def told(text: str) -> Completed:
    return Completed(text, "", 0)


def test_the_name_is_the_clusters(facts: Callable[..., Facts]) -> None:
    assert file_name(facts("23.11")) == "bigiron"


def test_nothing_is_written_over_and_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\n")
    with pytest.raises(CannotWrite, match="there is such a file already"):
        write_site(path, "name: other\n")
    assert path.read_text() == "name: mine\n"
    with pytest.raises(SiteError, match="unknown key"):
        write_site(tmp_path / "new.yaml", "nonsense: 1\n")
    assert [file.name for file in tmp_path.iterdir()] == ["mine.yaml"]
