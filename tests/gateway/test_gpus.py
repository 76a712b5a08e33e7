"""GPUs from the message to the plan, and from a node that lacks them to the next attempt."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.gateway.experiment import State
from hpcrunner.request.reasons import Reason
from hpcrunner.request.record import Record
from hpcrunner.schedulers.contract import JobState, Sighting, Verdict
from hpcrunner.sites.site import Site

GIB = 1024**3
GPUS = [
    {"type": "v100", "memory": "32G", "count": 4},
    {"type": "mi250", "memory": "64G", "count": 8, "slots": 40, "vendor": "amd"},
]


def gpu_site(folder: Path, meaning: str) -> Site:
    return Site.model_validate(
        {
            "name": "here",
            "spool": str(folder / "spool"),
            "partitions": [{"name": "gpu", "gpus": GPUS}],
            "gpus": {"meaning": meaning, "check": "count"},
        }
    )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return gpu_site(tmp_path, "slots")


def planned(parts: Any, experiment: Any) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """The experiment of its batch's plan, its script and the plan's word on the node."""
    folder = parts.spool.batch_folder(experiment.batch)
    plan = json.loads((folder / "plan.json").read_text())
    return plan["experiments"][0], (folder / "script").read_text(), plan["setup"]


def test_the_plan_has_the_gpus_in_the_sites_meaning_and_keeps_them_when_that_changes(
    parts: Any, message: Callable[..., bytes], tmp_path: Path
) -> None:
    parts.pile.put(message("a", gpus=2, gpuMem="40gib"))
    parts.pile.put(message("b", gpus=4))
    parts.intake.drain(2)
    # Read as cards they would be two and four; their shape was settled when they were taken.
    parts.site = gpu_site(tmp_path, "cards")
    parts.start()
    parts.dispatch.step()
    asked = {}
    for e in parts.journal.live():
        experiment, script, setup = planned(parts, e)
        asked[e.key] = [experiment[f"gpu{name}"] for name in ("s", "_vendor", "_memory")]
        assert f"--gres=gpu:{'mi250:1' if e.key == 'a' else 'v100:1'}" in script
        assert setup["gpu_check"] == "count"
    assert asked == {"a": [1, "amd", 40 * GIB], "b": [1, "nvidia", 0]}


def test_another_attempt_keeps_off_the_node_that_lacked_its_gpus(
    parts: Any, message: Callable[..., bytes]
) -> None:
    parts.pile.put(message("a", gpus=16))
    parts.intake.drain(1)
    parts.dispatch.step()
    (e,) = parts.journal.live()
    record = Record(e.batch, 1, e.id, 1, Reason.GPUS_MISSING, "nvidia-smi fails", host="n1.local")
    (parts.spool.batch_folder(e.batch) / "records" / "1.json").write_text(record.to_json())
    parts.scheduler.sightings[e.job_id] = Sighting(
        Verdict.FOUND, JobState.ENDED, "FAILED", Reason.SCHEDULER_FAILED, node="n1", accounted=True
    )
    parts.track.step()
    parts.clock.forward(3600)
    parts.track.step()
    (waiting,) = parts.journal.live()
    assert (waiting.state, waiting.attempt) == (State.ACCEPTED, 2)
    parts.dispatch.step()
    (second,) = parts.journal.live()
    assert second.spec.exclude == ("n1",)  # Slurm's name of it, not the host's own
    assert "#SBATCH --exclude=n1\n" in planned(parts, second)[1]
