"""What a scheduler says to a job, by its variables."""

from __future__ import annotations

import signal

import pytest

from hpcrunner.job.allocation import allocation_of, allocation_variables
from hpcrunner.job.claim import job_id, restart_count
from hpcrunner.job.limits import killed_at, meaning
from hpcrunner.request.plan import NodeSetup
from hpcrunner.request.reasons import Reason
from hpcrunner.request.scheduler_words import GRID_ENGINE, NO_SCHEDULER, SLURM, words_of

SINGLE = {"JOB_ID": "17", "SGE_TASK_ID": "undefined", "RESTARTED": "0", "NSLOTS": "4"}


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({"SLURM_JOB_ID": "9"}, "9"),
        (
            {"SLURM_JOB_ID": "10", "SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "3"},
            "9_3",
        ),
        (SINGLE, "17"),
        ({**SINGLE, "SGE_TASK_ID": "3"}, "17.3"),
        ({"JOB_ID": "of something else"}, ""),
        ({"SLURM_CONF": "/etc/slurm/slurm.conf"}, ""),
    ],
)
def test_a_job_knows_its_id_as_the_submitter_does(environ: dict[str, str], wanted: str) -> None:
    assert job_id(environ) == wanted


def test_the_scheduler_is_known_by_what_it_alone_sets() -> None:
    assert words_of(SINGLE) is GRID_ENGINE
    assert words_of({**SINGLE, "SLURM_JOB_ID": "1"}) is SLURM
    assert words_of({"NSLOTS": "4", "JOB_ID": "1"}) is NO_SCHEDULER


def test_restarts_are_counted_as_far_as_the_scheduler_does() -> None:
    assert restart_count({**SINGLE, "RESTARTED": "1"}) == 1
    assert restart_count({"SLURM_JOB_ID": "1", "SLURM_RESTART_COUNT": "4"}) == 4
    assert restart_count({**SINGLE, "RESTARTED": "yes"}) == 0


def test_slots_are_the_jobs_cpus() -> None:
    assert allocation_of(SINGLE, 1, 0).cpus == 4


def test_devices_of_a_resource_map_are_told_to_the_libraries() -> None:
    given = allocation_of({**SINGLE, "SGE_HGR_gpu": "0 2"}, 4, 2)
    assert given.devices == ("0", "2")
    assert allocation_variables(given)[0]["CUDA_VISIBLE_DEVICES"] == "0,2"
    # What the site has told them itself stays.
    told = allocation_of({**SINGLE, "SGE_HGR_gpu": "0 2", "CUDA_VISIBLE_DEVICES": "5,6"}, 4, 2)
    assert "CUDA_VISIBLE_DEVICES" not in allocation_variables(told)[0]
    named = allocation_of({**SINGLE, "SGE_HGR_gpu": "gpu0 gpu2"}, 4, 2)
    assert (named.has_gpus, named.devices) == (True, ())


def test_a_warning_of_grid_engines_is_a_kill_that_follows() -> None:
    setup = NodeSetup("/tmp", "/tmp", kill_wait=60.0)
    assert killed_at(signal.SIGUSR2, 100.0, None, setup, GRID_ENGINE) == 160.0
    assert killed_at(signal.SIGUSR2, 100.0, 500.0, setup, SLURM) == 500.0
    stop = meaning(signal.SIGUSR2, 100.0, 5000.0, 30.0, GRID_ENGINE)
    assert stop is not None and stop.reason is Reason.CANCELLED
    stop = meaning(signal.SIGUSR2, 100.0, 100.0, 30.0, GRID_ENGINE)
    assert stop is not None and stop.reason is Reason.TIME_LIMIT


@pytest.mark.parametrize("status", [99, 100])
def test_no_exit_status_asks_grid_engine_for_another_run(status: int) -> None:
    assert GRID_ENGINE.exit_status(status) == 1
    assert SLURM.exit_status(status) == status
