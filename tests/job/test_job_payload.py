"""The payload's words and environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpcrunner.job.allocation import allocation_of
from hpcrunner.job.payload import (
    PayloadNotStarted,
    PythonHome,
    payload_environment,
    payload_words,
)
from hpcrunner.job.workspace import Workspace
from hpcrunner.request.image import PlannedImage
from hpcrunner.request.plan import PlannedExperiment


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path, tmp_path / "experiments" / "k", True)
    (made.cwd / "sub").mkdir(parents=True)
    for name in ("train.py", "sub/train.py", "-c", "a b;$(x).py"):
        (made.cwd / name).touch()
    return made


def experiment(**more: Any) -> PlannedExperiment:
    usual = {"id": "1", "key": "k", "name": "k", "attempt": 2, "filename": "train.py"}
    return PlannedExperiment(**{**usual, "args": (), "artifacts": (), **more})


def test_a_script_and_its_arguments_stay_words(workspace: Workspace) -> None:
    words = payload_words(experiment(args=("3", "a b", "$(id)")), "/py", workspace)
    assert words == ("/py", "train.py", "3", "a b", "$(id)")


@pytest.mark.parametrize("name", ["sub/train.py", "./train.py", "a b;$(x).py"])
def test_a_filename_inside_the_workspace_is_taken_as_it_is(workspace: Workspace, name: str) -> None:
    assert payload_words(experiment(filename=name), "/py", workspace) == ("/py", name)


def test_a_filename_cannot_be_an_option_of_the_interpreter(workspace: Workspace) -> None:
    words = payload_words(experiment(filename="-c", args=("import os",)), "/py", workspace)
    assert words == ("/py", "./-c", "import os")


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/passwd", "sub/../../x", "x\0y", "gone.py", "sub"]
)
def test_a_filename_that_is_no_file_of_the_workspace_is_refused(
    workspace: Workspace, name: str
) -> None:
    with pytest.raises(PayloadNotStarted):
        payload_words(experiment(filename=name), "/py", workspace)


def test_a_module_is_run_by_its_name(workspace: Workspace) -> None:
    words = payload_words(experiment(filename="-m", args=("pkg.mod", "1")), "/py", workspace)
    assert words == ("/py", "-m", "pkg.mod", "1")
    with pytest.raises(PayloadNotStarted):
        payload_words(experiment(filename="-m"), "/py", workspace)


def test_without_a_file_the_images_own_program_gets_the_arguments(workspace: Workspace) -> None:
    alone = experiment(image=PlannedImage("/a.sif"), filename=None, args=("a b", "$x"))
    assert payload_words(alone, "python3", workspace) == ("a b", "$x")
    with pytest.raises(PayloadNotStarted):
        payload_words(experiment(filename=None), "/py", workspace)


def environment(workspace: Workspace, job: dict[str, str], **more: Any) -> dict[str, str]:
    return payload_environment(experiment(**more), workspace, PythonHome("/py"), job)[0]


def test_the_jobs_environment_goes_through_untouched(workspace: Workspace) -> None:
    job = {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "1", "SLURM_JOB_ID": "7", "PYTHONPATH": "/m"}
    job["SLURM_JOB_GPUS"] = "3"
    result = environment(workspace, job)
    assert {name: result[name] for name in job} == job


def test_config_env_is_expanded_from_the_jobs_environment_only(workspace: Workspace) -> None:
    config = (
        ("PATH", "%PATH%:./bin"),
        ("A", "1"),
        ("B", "%A%-%EMPTY%-100%%"),
        ("C", "$HOME`id`"),
        ("D", "50%PATH%PATH%"),  # paired from the left: %PATH%, then PATH%
        ("E", "%%PATH%%"),  # an empty name, PATH, an empty name
        ("F", "%NESTED%"),
    )
    job = {"PATH": "/bin", "EMPTY": "", "NESTED": "%PATH%"}
    result = environment(workspace, job, environment=config)
    assert result["PATH"] == "/bin:./bin"
    assert result["B"] == "%A%-%EMPTY%-100%%"
    assert result["C"] == "$HOME`id`"
    assert result["D"] == "50/binPATH%"
    assert result["E"] == "%%PATH%%"
    assert result["F"] == "%PATH%"


def test_config_env_cannot_override_what_is_the_schedulers_or_ours(workspace: Workspace) -> None:
    names = [
        "SLURM_JOB_ID",
        "SLURM_NEW",
        "CUDA_VISIBLE_DEVICES",
        "STUDIOML_HOME",
        "STUDIOML_EXPERIMENT",
        "STUDIOML_ARTIFACT_MAPPING",
        "TMPDIR",
        "A=B",
        "",
    ]
    config = tuple((name, "hostile") for name in names)
    result, refused = payload_environment(
        experiment(environment=config),
        workspace,
        PythonHome("/py"),
        {"SLURM_JOB_ID": "7", "STUDIOML_ARTIFACT_MAPPING": "/x"},
    )
    assert list(refused) == names
    assert "hostile" not in result.values()
    assert "STUDIOML_ARTIFACT_MAPPING" not in result
    assert result["STUDIOML_EXPERIMENT"] == "k"
    assert result["STUDIOML_ATTEMPT"] == "2"


def test_a_virtual_environment_goes_before_the_jobs_path(workspace: Workspace) -> None:
    python = PythonHome("/v/bin/python", "/v")
    job = {"PATH": "/bin", "PYTHONHOME": "/x", "VIRTUAL_ENV": "/other"}
    result, _ = payload_environment(experiment(), workspace, python, job)
    assert result["PATH"] == "/v/bin:/bin"
    assert result["VIRTUAL_ENV"] == "/v"
    assert "PYTHONHOME" not in result
    assert "VIRTUAL_ENV" not in environment(workspace, job)


def test_thread_counts_follow_the_allocation_unless_somebody_set_them(
    workspace: Workspace,
) -> None:
    job = {"OMP_NUM_THREADS": "1", "SLURM_CPUS_ON_NODE": "6", "SLURM_CPUS_PER_TASK": "4"}
    result = environment(workspace, job, cpus=4, environment=(("MKL_NUM_THREADS", "2"),))
    assert (result["OMP_NUM_THREADS"], result["MKL_NUM_THREADS"]) == ("1", "2")
    assert (result["GOTO_NUM_THREADS"], result["OPENBLAS_NUM_THREADS"]) == ("6", "6")
    assert result["OPENMP"] == "True"


@pytest.mark.parametrize(
    ("job", "asked", "cpus"),
    [
        ({}, 3, 3),
        ({"SLURM_CPUS_PER_TASK": "4"}, 3, 4),
        ({"SLURM_CPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "4"}, 3, 8),
        ({"SLURM_CPUS_ON_NODE": "", "SLURM_CPUS_PER_TASK": "many"}, 3, 3),
    ],
)
def test_the_scheduler_says_how_many_cpus_there_are(
    job: dict[str, str], asked: int, cpus: int
) -> None:
    assert allocation_of(job, asked, 0).cpus == cpus


def test_a_single_cpu_gets_a_single_thread(workspace: Workspace) -> None:
    result = environment(workspace, {"SLURM_CPUS_ON_NODE": "1"}, cpus=1)
    assert result["OMP_NUM_THREADS"] == "1"
    assert "OPENMP" not in result


NOTHING = ("-1", "-1")


@pytest.mark.parametrize(
    ("job", "gpus", "seen"),
    [
        ({}, 0, NOTHING),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 0, NOTHING),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, 0, NOTHING),  # of somebody's .bashrc
        ({"CUDA_VISIBLE_DEVICES": "1,2", "SLURM_JOB_GPUS": "1,2"}, 2, ("1,2", "1,2")),
        ({"CUDA_VISIBLE_DEVICES": "0", "SLURM_JOB_GPUS": "3"}, 0, ("0", "0")),  # the site's option
        ({"CUDA_VISIBLE_DEVICES": "0", "SLURM_GPUS_ON_NODE": "1"}, 0, ("0", "0")),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}, 2, ("GPU-a,GPU-b", "GPU-a,GPU-b")),
        ({"ROCR_VISIBLE_DEVICES": "0", "SLURM_JOB_GPUS": "0"}, 1, (None, None)),
        ({}, 1, (None, None)),  # nodes as a whole, without gres
    ],
)
def test_a_payload_sees_the_gpus_of_its_job_and_none_where_it_has_none(
    workspace: Workspace, job: dict[str, str], gpus: int, seen: tuple[str | None, str | None]
) -> None:
    mine = (("CUDA_VISIBLE_DEVICES", "9"), ("NVIDIA_VISIBLE_DEVICES", "all"))
    result = environment(workspace, job, gpus=gpus, environment=mine)
    assert (result.get("CUDA_VISIBLE_DEVICES"), result.get("NVIDIA_VISIBLE_DEVICES")) == seen
    assert ("CUDA_DEVICE_ORDER" in result) is (seen[0] not in (None, "-1"))


@pytest.mark.parametrize(
    ("job", "gpus", "seen"),
    [
        ({}, 0, {"ROCR_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "-1"}),
        ({"ROCR_VISIBLE_DEVICES": "2,3"}, 2, {"ROCR_VISIBLE_DEVICES": "2,3"}),
        # HIP counts what ROCR has left: whatever the scheduler has set stays, and nothing joins it.
        (
            {"ROCR_VISIBLE_DEVICES": "2", "CUDA_VISIBLE_DEVICES": "2"},
            1,
            {"ROCR_VISIBLE_DEVICES": "2", "CUDA_VISIBLE_DEVICES": "2"},
        ),
    ],
)
def test_a_payload_on_amds_gpus_finds_them_as_the_scheduler_has_set_them(
    workspace: Workspace, job: dict[str, str], gpus: int, seen: dict[str, str]
) -> None:
    mine = (("ROCR_VISIBLE_DEVICES", "9"), ("HIP_VISIBLE_DEVICES", "9"))
    result = environment(workspace, job, gpus=gpus, gpu_vendor="amd", environment=mine)
    names = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", *job)
    assert {name: result[name] for name in names if name in result} == seen
    assert ("NVIDIA_VISIBLE_DEVICES" in result) is (gpus == 0)
