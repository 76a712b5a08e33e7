"""pyslurm in its own process: what fits, what does not, and what an answer means for a batch."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.drmaa import NativeRefused
from hpcrunner.batch.pyslurm import job_description, pyslurm_refuses
from hpcrunner.doctor.finding import Verdict
from hpcrunner.doctor.slurm import library
from hpcrunner.schedulers.backend import Backend
from hpcrunner.schedulers.command import Completed
from hpcrunner.schedulers.contract import (
    Job,
    JobState,
    SchedulerUnavailable,
    SubmitRefused,
    SubmitUncertain,
)
from hpcrunner.schedulers.pyslurm_backend import open_pyslurm, release
from hpcrunner.schedulers.pyslurm_child import tasks
from hpcrunner.schedulers.slurm import Patience, Slurm
from hpcrunner.sites.site import Site

# A pyslurm that does as the job's partition tells it to, and notes what it was given.
STAND_IN = """
import json, os, time, pathlib
__version__ = (pathlib.Path(__file__).parent / "version").read_text()
class RPCError(Exception): pass
def slurm_api_version(): return (22, 5, 8)
class JobSubmitDescription:
    def __init__(self, **given): self.__dict__.update(given)
    def submit(self):
        how = getattr(self, "partitions", "")
        note = pathlib.Path(__file__).parent / "given.json"
        note.write_text(json.dumps(self.__dict__))
        if how == "dead": os._exit(9)
        if how == "slow": time.sleep(600)
        if how == "odd": raise ValueError("Invalid specifier")
        if how == "zero": return 0
        if how.startswith("rpc"): raise RPCError((pathlib.Path(__file__).parent / how).read_text())
        print("chatter {")
        return 17
class Job:
    def __init__(self, **given): self.__dict__.update(given)
class Jobs(dict):
    @staticmethod
    def load():
        rows = json.loads((pathlib.Path(__file__).parent / "jobs.json").read_text())
        return Jobs({n: Job(**row) for n, row in enumerate(rows)})
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter that has that pyslurm, and none of hpcrunner's packages."""
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "pyslurm.py").write_text(STAND_IN)
    (packages / "version").write_text("22.5.3")
    program = tmp_path / "python"
    # As a venv's interpreter finds its own packages.
    program.write_text(
        f"#!{sys.executable} -I\\nimport sys\\n".replace("\\n", "\n")
        + f"sys.path.insert(0, {str(packages)!r})\n"
        + "place = sys.argv.index('-c')\n"
        + "code, sys.argv = sys.argv[place + 1], ['-c', *sys.argv[place + 2:]]\n"
        + "exec(code)\n"
    )
    program.chmod(0o755)
    return packages


def opened(python: Path, slurm: Slurm, **site: Any) -> Backend:
    keys = {"scheduler": "pyslurm", "pyslurm": {"python": str(python.parent / "python")}}
    return open_pyslurm(Site.model_validate({**keys, **site}), slurm)


@pytest.fixture
def slurm(commands: Any) -> Slurm:
    away = Completed("", "slurm_load_ctl_conf error", 1)
    return Slurm(runner=commands(scontrol=away))


@pytest.fixture
def scheduler(python: Path, slurm: Slurm) -> Any:
    scheduler = opened(python, slurm)
    yield scheduler
    scheduler.close()


def test_single_jobs_and_arrays_are_submitted_with_all_that_was_asked(
    scheduler: Backend, make_batch: Callable[..., Batch], python: Path
) -> None:
    batch = make_batch("ab12", size=3, cpus=2, memory=1 << 30, gpus=1, gpu_type="a100")
    assert scheduler.submit(batch).job_ids == ("17_1", "17_2", "17_3")
    given = json.loads((python / "given.json").read_text())
    assert given["gres_per_node"] == "gpu:a100:1"
    assert (given["array"], given["name"], given["cpus_per_task"]) == ("1-3", batch.name, 2)
    assert given["get_user_environment"] is True
    assert given["script"] == str(batch.script)
    environment = given["environment"]
    assert {n for n in environment if not n.startswith("SLURM_")} == set()
    assert environment["SLURM_EXPORT_ENV"] == "NONE"
    assert "SLURM_BITSTR_LEN" not in environment
    assert scheduler.submit(make_batch("cd34")).job_ids == ("17",)


def test_nothing_of_the_gateways_environment_reaches_a_job_under_export_all(
    python: Path,
    slurm: Slurm,
    make_batch: Callable[..., Batch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GATEWAY_SECRET", "hush")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/leak")
    scheduler = opened(python, slurm, export="ALL")
    scheduler.submit(make_batch("ab12"))
    scheduler.close()
    given = json.loads((python / "given.json").read_text())
    assert "hush" not in json.dumps(given)
    assert "/leak" not in json.dumps(given)
    assert given["environment"]["PATH"] == os.environ["PATH"]
    assert given["get_user_environment"] is False


@pytest.mark.parametrize("how", ["dead", "slow", "zero"])
def test_a_child_that_is_lost_in_a_submission_leaves_it_uncertain(
    scheduler: Backend, slurm: Slurm, make_batch: Callable[..., Batch], how: str
) -> None:
    slurm.patience = Patience(submit=1.0 if how == "slow" else 20.0)
    with pytest.raises(SubmitUncertain):
        scheduler.submit(make_batch("ab", partition=how))
    slurm.patience = Patience()
    assert scheduler.submit(make_batch("cd")).job_ids == ("17",)


@pytest.mark.parametrize(
    ("text", "passing"),
    [
        ("Invalid partition name specified", False),
        ("Unable to contact slurm controller (connect failure)", True),
        ("Unable to contact slurm controller (receive failure)", None),
        ("Success", None),
    ],
)
def test_what_the_controller_says_is_judged_by_the_same_words_as_sbatchs(
    scheduler: Backend,
    make_batch: Callable[..., Batch],
    python: Path,
    text: str,
    passing: bool | None,
) -> None:
    (python / "rpc").write_text(text)
    with pytest.raises(SubmitUncertain if passing is None else SubmitRefused) as told:
        scheduler.submit(make_batch("ab", partition="rpc"))
    if isinstance(told.value, SubmitRefused):
        assert told.value.passing is passing
        assert text in told.value.line()


def test_a_description_that_pyslurm_cannot_put_together_is_refused_for_good(
    scheduler: Backend, make_batch: Callable[..., Batch]
) -> None:
    with pytest.raises(SubmitRefused, match="Invalid specifier") as told:
        scheduler.submit(make_batch("ab", partition="odd"))
    assert not told.value.passing


def test_the_live_queue_is_pyslurms_with_a_row_for_each_waiting_task(
    scheduler: Backend, slurm: Slurm, python: Path
) -> None:
    row = {
        "id": 7,
        "array_id": None,
        "array_task_id": None,
        "array_tasks_waiting": None,
        "user_id": os.getuid(),
        "name": "hpcr-ab",
        "state": "RUNNING",
        "start_time": 1.8e9,
        "allocated_nodes": "n1",
        "state_reason": "None",
    }
    waiting = {"state": "PENDING", "start_time": 0, "allocated_nodes": None}
    rows = [
        row,
        {**row, "id": 9, "array_id": 8, "array_task_id": 1, "name": "hpcr-cd"},
        {**row, **waiting, "id": 8, "array_id": 8, "array_tasks_waiting": "2-3", "name": "hpcr-cd"},
        {**row, "id": 10, "name": "hpcr-ee", "user_id": os.getuid() + 1},
        {**row, "id": 11, "name": "someone's"},
    ]
    (python / "jobs.json").write_text(json.dumps(rows))
    slurm.accounting = False
    asked = [Job("7", "hpcr-ab"), *(Job(f"8_{n}", "hpcr-cd") for n in (1, 2, 3))]
    seen = scheduler.look_up([*asked, Job("10", "hpcr-ee")], 0.0)
    assert [seen[job].state for job in asked] == [
        *(JobState.RUNNING, JobState.RUNNING, JobState.QUEUED, JobState.QUEUED)
    ]
    assert seen[asked[0]].node == "n1"
    assert seen[Job("10", "hpcr-ee")].state is None


@pytest.mark.parametrize("answer", ["[", '[{"id": 1}]'])
def test_a_live_queue_that_cannot_be_read_is_unavailable_and_never_empty(
    scheduler: Backend, slurm: Slurm, python: Path, answer: str
) -> None:
    (python / "jobs.json").write_text(answer)
    slurm.accounting = False
    seen = scheduler.look_up([Job("7", "hpcr-ab")], 0.0)
    assert {sighting.verdict.value for sighting in seen.values()} == {"UNAVAILABLE"}


@pytest.mark.parametrize("version", ["23.2.1", "22.50.3", "25.11.0", "?"])
def test_a_pyslurm_for_another_slurm_is_refused_with_how_to_mend_it(
    python: Path, slurm: Slurm, version: str
) -> None:
    (python / "version").write_text(version)
    with pytest.raises(SchedulerUnavailable) as told:
        opened(python, slurm)
    assert version in told.value.line()
    assert "22.5" in told.value.line()
    assert "scheduler: sbatch" in told.value.line()


def test_a_python_without_pyslurm_or_none_at_all_is_told_in_one_line(
    tmp_path: Path, slurm: Slurm
) -> None:
    for program in (sys.executable, str(tmp_path / "gone")):
        site = Site.model_validate({"scheduler": "pyslurm", "pyslurm": {"python": program}})
        with pytest.raises(SchedulerUnavailable) as told:
            open_pyslurm(site, slurm)
        assert program in told.value.line()
        assert "pyslurm.python" in told.value.line()
        assert "\n" not in told.value.line()


def test_releases_are_compared_as_numbers() -> None:
    assert release("22.5.3") == release("22.05.8")
    assert release("25.11.0") == release("25.11.2-1")
    assert release("22.5.3") != release("22.50.3")


def test_indices_of_waiting_tasks_are_read_in_all_their_forms() -> None:
    assert list(tasks("3")) == [3]
    assert list(tasks("1-3,7,10-20:5%4")) == [1, 2, 3, 7, 10, 15, 20]


@pytest.mark.parametrize("syntax", ["gres", "gpus-per-node", "gpus"])
def test_each_dialect_of_gpus_has_its_attribute(
    make_batch: Callable[..., Batch], syntax: str
) -> None:
    site = Site.model_validate({"gpu_syntax": syntax})
    made = job_description(make_batch("ab", gpus=2, gpu_type="a100"), site)
    told = {k: v for k, v in made.items() if "gp" in k or "gres" in k}
    assert told == ({"gpus": "a100:2"} if syntax == "gpus" else {"gres_per_node": "gpu:a100:2"})


def test_the_doctor_names_what_pyslurm_cannot_carry(
    python: Path, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "Slurm", lambda: slurm)
    keys = {"scheduler": "pyslurm", "pyslurm": {"python": str(python.parent / "python")}}
    parts = [{"name": "gpu", "directives": ["--hint=nomultithread"]}]
    found = library.judge_backend(Site.model_validate({**keys, "partitions": parts}), "22.05.8")
    assert (found.verdict, "--hint=nomultithread" in found.what) == (Verdict.FAULT, True)
    assert library.judge_backend(Site.model_validate(keys), "22.05.8").verdict is Verdict.OK


def test_what_pyslurm_cannot_carry_is_refused_by_name(make_batch: Callable[..., Batch]) -> None:
    words = ("--hint=nomultithread", "--exclusive", "--nice=5", "--exclusive=user")
    assert pyslurm_refuses(words) == ("--hint=nomultithread", "--exclusive=user")
    site = Site.model_validate({"directives": list(words[1:3])})
    made = job_description(make_batch("ab", directives=words[1:3]), site)
    assert (made["resource_sharing"], made["nice"]) == ("exclusive", 5)
    for word in ("--hint=nomultithread", "--nice=much"):
        with pytest.raises(NativeRefused, match=word):
            job_description(make_batch(f"c{len(word)}", directives=(word,)), site)
