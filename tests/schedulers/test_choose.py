"""Which backend a site gets. The DRMAA library of these sites does not exist."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.schedulers import choose
from hpcrunner.schedulers.choose import open_scheduler
from hpcrunner.schedulers.command import Completed
from hpcrunner.schedulers.contract import SchedulerUnavailable
from hpcrunner.schedulers.local import LocalScheduler
from hpcrunner.schedulers.slurm import Slurm
from hpcrunner.sites.site import Site


@pytest.fixture(autouse=True)
def cluster_config(monkeypatch: pytest.MonkeyPatch, commands: Any, captured: Any) -> Any:
    """A cluster that answers scontrol show config as a real one did."""
    ask = commands(scontrol=captured("scontrol_show_config.txt"))
    monkeypatch.setattr(
        choose, "Slurm", lambda accounting: Slurm(accounting=accounting, runner=ask)
    )
    return ask


def site(tmp_path: Path, **keys: Any) -> Site:
    return Site(name="test", **{"drmaa": {"library": str(tmp_path / "libdrmaa.so")}, **keys})


def test_auto_falls_back_to_sbatch_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert open_scheduler(site(tmp_path), tmp_path).name == "sbatch"
    assert "scheduler sbatch: no DRMAA" in caplog.text


def test_drmaa_that_cannot_be_had_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(SchedulerUnavailable, match=r"drmaa\.library"):
        open_scheduler(site(tmp_path, scheduler="drmaa"), tmp_path)


def test_auto_takes_sbatch_for_directives_that_drmaa_would_lose(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        scheduler = open_scheduler(site(tmp_path, directives=("--nice=100",)), tmp_path)
    assert scheduler.name == "sbatch"
    assert "--nice" in caplog.text


def test_local_gets_the_machine_that_the_site_names(tmp_path: Path) -> None:
    machine = {"cpus": 3, "memory": "2G", "gpus": ["0", "2"], "gpu_memory": "24G"}
    for vendor, variable in (("nvidia", "CUDA_VISIBLE_DEVICES"), ("amd", "ROCR_VISIBLE_DEVICES")):
        local = {**machine, "gpu_vendor": vendor}
        scheduler = open_scheduler(site(tmp_path, scheduler="local", local=local), tmp_path)
        assert isinstance(scheduler, LocalScheduler)
        assert (scheduler.slots.cpus, scheduler.slots.memory) == (3, 2 << 30)
        assert (scheduler.slots.gpus, scheduler.slots.gpu_variable) == (("0", "2"), variable)
    assert scheduler.folder == tmp_path / "local"


def test_a_site_that_expects_accounts_the_cluster_does_not_keep_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, cluster_config: Any
) -> None:
    text = cluster_config.answers["scontrol"].stdout
    cluster_config.answers["scontrol"] = Completed(
        text.replace("accounting_storage/slurmdbd", "accounting_storage/none"), "", 0
    )
    open_scheduler(site(tmp_path, scheduler="sbatch"), tmp_path)
    assert "accounting.mode: none" in caplog.text


def test_a_site_that_expects_larger_arrays_than_the_cluster_takes_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = {"scheduler": "sbatch", "limits": {"max_array_size": 10001}}
    open_scheduler(site(tmp_path, **keys), tmp_path)
    assert "limits.max_array_size" in caplog.text


def test_a_controller_that_is_away_is_no_reason_not_to_start(
    tmp_path: Path, cluster_config: Any
) -> None:
    cluster_config.answers["scontrol"] = Completed("", "Unable to contact slurm controller", 1)
    assert open_scheduler(site(tmp_path, scheduler="sbatch"), tmp_path).name == "sbatch"
