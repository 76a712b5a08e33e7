"""A site is found by name or path, and what its file leaves out has a sound default."""

import os
import sys
from pathlib import Path

import pytest

from hpcrunner.data import data_folder
from hpcrunner.sites.load import load_site, site_file, site_names
from hpcrunner.sites.node_setup import node_setup
from hpcrunner.sites.problems import SiteError
from hpcrunner.sites.site import Site
from hpcrunner.sites.values import Rate

GIB = 1024**3


@pytest.fixture
def own_sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of sites."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("HPCRUNNER_SITES", raising=False)
    folder = tmp_path / "hpcrunner" / "sites"
    folder.mkdir(parents=True)
    return folder


def test_an_empty_file_is_a_working_site(own_sites: Path) -> None:
    (own_sites / "empty.yaml").write_text("")
    site = load_site("empty")
    assert site == Site(name="empty")
    assert site.python == sys.executable
    assert site.scheduler == "auto"


def test_the_users_site_comes_before_the_shipped_one_of_the_same_name(own_sites: Path) -> None:
    (own_sites / "local.yaml").write_text("name: mine\n")
    assert load_site("local").name == "mine"
    assert site_file("local") == own_sites / "local.yaml"
    assert site_file("generic-slurm").parent == data_folder("site-configs")


def test_an_unknown_name_lists_the_known_ones(own_sites: Path) -> None:
    (own_sites / "hpc2.yaml").write_text("")
    with pytest.raises(SiteError, match=r"no site 'hpc3' .*, nearest: hpc2; allowed: .*local") as e:
        load_site("hpc3")
    assert "\n" not in e.value.line()
    assert {"hpc2", "local", "generic-slurm", "development-cluster"} <= set(site_names())


@pytest.mark.parametrize("name", ["..", ".", "", "a b"])
def test_a_name_cannot_leave_the_folders(own_sites: Path, name: str) -> None:
    (own_sites.parent / ".yaml").write_text("")
    with pytest.raises(SiteError, match="no site"):
        load_site(name)


def test_what_slurm_calls_64g_is_binary_and_a_bare_number_is_mib(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "partitions:\n  - {name: a, max_memory: 64G}\n  - {name: b, max_memory: 7000}\n"
    )
    first, second = load_site(path).partitions
    assert first.max_memory == 64 * GIB
    assert second.max_memory == 7000 * 1024**2


def test_values_keep_their_spelling_where_they_are_text(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "account: 0042\nqos: NO\nenvironment: {A: 1.50, B: yes}\ninterpreters: {3.10: python3.10}\n"
        "partitions: [{name: on, max_time: 12:00:00}]\nlimits: {submit_rate: 30/1m}\ntmp: yes\n"
    )
    site = load_site(path)
    assert (site.account, site.qos) == ("0042", "NO")
    assert site.environment == {"A": "1.50", "B": "yes"}
    assert site.interpreters == {"3.10": "python3.10"}
    assert (site.partitions[0].name, site.partitions[0].max_time) == ("on", 12 * 3600)
    assert site.limits.submit_rate == Rate(30, 60.0)
    assert site.tmp is True


def test_spool_is_expanded_here_and_node_folders_on_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.setenv("GROUP", "g")
    path = tmp_path / "a.yaml"
    path.write_text("spool: ~/$GROUP/spool\nscratch: $TMPDIR/x\ncache: ~/c/$USER\n")
    site = load_site(path)
    assert site.spool_path == Path("/home/u/g/spool")
    assert site.scratch == "$TMPDIR/x"
    assert site.cache == "/home/u/c/$USER"


def test_a_key_without_a_value_is_as_if_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("account:\npartitions:\ndefaults:\n  memory: ~\ngrace: null\n")
    assert load_site(path) == Site(name="a")


def test_an_array_has_at_most_one_task_less_than_maxarraysize() -> None:
    limits = Site.model_validate(
        {"limits": {"max_array_size": 1001, "max_array_tasks": 5000}}
    ).limits
    assert limits.largest_array == 1000
    assert Site.model_validate({"limits": {"max_array_tasks": 7}}).limits.largest_array == 7


def test_the_node_setup_repeats_the_site() -> None:
    site = Site.model_validate(
        {"scratch": "$TMPDIR", "cache": "/c", "interpreters": {"3.9": "/p9", "3.11": "/p11"}}
    )
    setup = node_setup(site, 3600)
    assert (setup.scratch, setup.cache, setup.time_limit) == ("$TMPDIR", "/c", 3600.0)
    assert setup.interpreters == (("3.11", "/p11"), ("3.9", "/p9"))
    assert node_setup(site, 0).time_limit is None


def test_every_shipped_site_loads_under_its_files_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "someone")
    folder = data_folder("site-configs")
    names = {path.stem for path in folder.glob("*.yaml")}
    assert {"local", "generic-slurm", "generic-gridengine", "development-cluster"} < names
    for name in names:
        assert load_site(folder / f"{name}.yaml").name == name


def test_the_examples_in_the_generic_site_are_sound(tmp_path: Path) -> None:
    """Its commented keys, uncommented, make a site."""
    lines = []
    text = (data_folder("site-configs") / "generic-slurm.yaml").read_text()
    for line in text.splitlines():
        bare = line.removeprefix("# ")
        is_example = line.startswith("# ") and (
            bare.startswith(("  ", "- ")) or (bare.split(":")[0].isidentifier() and ":" in bare)
        )
        lines.append(bare if is_example else line)
    path = tmp_path / "uncommented.yaml"
    path.write_text(
        "\n".join(
            line
            for line in lines
            if "gpu_syntax: gres, " not in line and "memory_syntax: mem, " not in line
        )
        + "\n"
    )
    site = load_site(path)
    assert [p.name for p in site.partitions] == ["cpu", "gpu"]
    assert site.directives == ("--constraint=skylake",)
    assert site.account == "research"
    assert site.interpreters["3.9"].startswith("/opt/")


def test_the_development_cluster_is_described_as_it_is() -> None:
    layout = pytest.importorskip("dev.cluster.layout")
    site = load_site(data_folder("site-configs") / "development-cluster.yaml")
    nodes = {node.name: node for node in layout.NODES}
    real = {partition.name: partition for partition in layout.PARTITIONS}
    assert site.account == layout.ACCOUNT
    assert {partition.name for partition in site.partitions} == set(real)
    for partition in site.partitions:
        members = [nodes[name] for name in real[partition.name].nodes]
        assert partition.max_time == real[partition.name].max_time_seconds
        assert partition.max_cpus == min(node.cpus for node in members)
        assert partition.max_memory == min(node.memory_mb for node in members) * 1024**2
        assert {(g.type, g.count) for g in partition.gpus} == {
            (node.gpu_type, node.gpus) for node in members if node.gpus
        }


def test_local_hands_out_this_machine() -> None:
    local = load_site(data_folder("site-configs") / "local.yaml").local
    assert 1 <= local.cpus <= (os.cpu_count() or 1)
    assert local.memory > 100 * 1024**2
