"""The development cluster's pure parts: layout, knobs and Slurm's configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from dev.cluster import slurm_conf
from dev.cluster.errors import CannotHere
from dev.cluster.gridengine.server import is_whole, record
from dev.cluster.layout import DEFAULT_STATE, NODES, PARTITIONS, Layout
from dev.cluster.settings import Settings


def test_the_state_directory_comes_from_the_environment() -> None:
    assert Layout.from_environment({}).state == Path(DEFAULT_STATE)
    assert Layout.from_environment({"HPCRUNNER_DEV_DIR": "/srv/dev"}).home == Path(
        "/srv/dev/home/researcher"
    )


@pytest.mark.parametrize("state", ["relative", "/", "/top", "/with a/blank", "/with/a#hash"])
def test_a_state_directory_slurm_could_not_name_is_refused(state: str) -> None:
    with pytest.raises(CannotHere):
        Layout.from_environment({"HPCRUNNER_DEV_DIR": state})


@pytest.mark.parametrize("base", ["80", "70000", "many"])
def test_an_unusable_port_base_is_refused(base: str) -> None:
    with pytest.raises(CannotHere):
        Layout.from_environment({"HPCRUNNER_DEV_PORT_BASE": base})


def test_no_two_servers_share_a_port() -> None:
    layout = Layout(Path("/srv/dev"), 20000)
    ports = [getattr(layout, name) for name in dir(Layout) if name.endswith("_port")]
    numbers = [port for port in ports if isinstance(port, int)]
    numbers += [layout.slurmd_port(node) for node in NODES]
    assert len(numbers) == len(set(numbers)) == 13
    assert all(20000 <= number < 20020 for number in numbers)


def test_partitions_name_nodes_that_exist() -> None:
    names = {node.name for node in NODES}
    assert all(set(partition.nodes) <= names for partition in PARTITIONS)
    assert [partition.name for partition in PARTITIONS if partition.default] == ["cpu"]


def test_a_knob_that_is_not_given_keeps_its_value() -> None:
    kept = Settings(min_job_age=20, drmaa_library="/opt/libdrmaa.so")
    assert kept.given({}, None) == kept
    assert kept.given({"HPCRUNNER_DEV_MIN_JOB_AGE": "30"}, None).min_job_age == 30
    assert kept.given({"HPCRUNNER_DEV_MIN_JOB_AGE": "30"}, 40).min_job_age == 40
    assert kept.given({"DRMAA_LIBRARY_PATH": ""}, None).drmaa_library == ""


def test_min_job_age_is_never_the_zero_that_means_for_ever() -> None:
    assert Settings().given({}, 0).min_job_age == 2


@pytest.mark.parametrize("by_cgroup", [True, False])
def test_memory_is_watched_by_one_means_only(by_cgroup: bool) -> None:
    text = slurm_conf.slurm_conf(Layout(Path("/srv/dev")), Settings(), by_cgroup)
    assert ("TaskPlugin=task/cgroup" in text) is by_cgroup
    assert ("OverMemoryKill" in text) is not by_cgroup
    assert text.startswith(slurm_conf.OURS + "\n" + slurm_conf.STATE_MARK + "/srv/dev\n")


@pytest.mark.parametrize(
    "lost", ["root/default/common/bootstrap", "root/bin/x", "qmaster/managers"]
)
def test_a_cell_that_lost_something_is_known_to_be_none(tmp_path: Path, lost: str) -> None:
    assert not is_whole(tmp_path)
    for name in ("root/default/common/bootstrap", "root/default/common/accounting"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "root/bin").mkdir()
    (tmp_path / "root/bin/x").symlink_to("/nowhere")
    (tmp_path / "qmaster/cqueues").mkdir(parents=True)
    for name in ("qmaster/cqueues/short.q", "qmaster/managers", "qmaster/heartbeat"):
        (tmp_path / name).touch()
    (tmp_path / "made").touch()
    assert not is_whole(tmp_path)  # made by a tree that wrote down nothing
    record(tmp_path)
    assert is_whole(tmp_path)
    for name in ("root/default/common/accounting", "qmaster/heartbeat"):
        (tmp_path / name).unlink()
    assert is_whole(tmp_path)  # these come and go
    (tmp_path / lost).unlink()
    assert not is_whole(tmp_path)
