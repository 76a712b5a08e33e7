"""The whole text of scripts and native specifications, byte for byte, for many requests.

test_shipped_sites.py has those of every shipped site, for a few.

After a wanted change: ``HPCRUNNER_UPDATE_GOLDEN=1 pytest tests/batch/test_golden_scripts.py``,
then read the difference.
"""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.dialect import dialect_of
from hpcrunner.batch.script import render_script
from hpcrunner.data import data_folder
from hpcrunner.request.model import Resources
from hpcrunner.sites.load import read_site
from hpcrunner.sites.placement import place
from hpcrunner.sites.site import Site

GOLDEN = Path(__file__).parent / "golden"
UPDATE = "HPCRUNNER_UPDATE_GOLDEN"
GIB = 1024**3

CPU = Resources(cpus=2, ram=2 * GIB)
REQUESTS: dict[str, tuple[Resources, float | None, int]] = {
    "cpu": (CPU, 3600.0, 1),
    "bare": (Resources(), None, 1),
    "array": (CPU, 75.0, 100),
    "gpu": (Resources(cpus=4, gpus=2, gpu_memory=20 * 10**9, ram=4 * GIB), 86400.0, 1),
    "gpus": (Resources(cpus=1, gpus=4), None, 3),
}
CASES = [
    ("local", "cpu"),
    ("local", "array"),
    ("generic-slurm", "cpu"),
    ("generic-slurm", "bare"),
    ("generic-slurm", "array"),
    ("generic-gridengine", "cpu"),
    ("generic-gridengine", "bare"),
    ("generic-gridengine", "array"),
    ("development-cluster", "cpu"),
    ("development-cluster", "array"),
    ("development-cluster", "gpu"),
    ("development-cluster", "gpus"),
    ("every-key", "gpu"),
    ("every-key", "gpus"),
]


def site_named(name: str) -> Site:
    """A shipped site, or a test's own beside the golden files, less what is this machine's."""
    own = GOLDEN / f"{name}.yaml"
    site = read_site(own if own.exists() else data_folder("site-configs") / f"{name}.yaml")
    local: dict[str, Any] = {"cpus": 8, "memory": 16 * GIB}
    return Site.model_validate(
        {**dict(site), "python": "/opt/hpcrunner/bin/python", "local": local}
    )


@pytest.mark.parametrize(("name", "case"), CASES)
def test_the_rendered_words_are_the_golden_ones(name: str, case: str) -> None:
    site = site_named(name)
    resources, max_duration, size = REQUESTS[case]
    spec = place(resources, site, max_duration=max_duration)
    folder = Path("/home/user/.hpcrunner/batches/0123456789ab")
    batch = Batch("0123456789ab", spec, size, folder)
    rendered = {"sh": render_script(batch, site)}
    if site.scheduler != "local":
        job = dialect_of(site).drmaa_job(batch, site)
        rendered["native"] = f"{job.command}\n{job.native}\n"
    for suffix, text in rendered.items():
        path = GOLDEN / f"{name}-{case}.{suffix}"
        if os.environ.get(UPDATE):
            path.write_text(text)
        assert path.read_text() == text, f"set {UPDATE}=1 if the change is wanted"


def test_every_golden_file_belongs_to_a_case() -> None:
    names = {f"{name}-{case}" for name, case in CASES}
    assert {path.stem for path in GOLDEN.iterdir() if path.is_file()} <= names | {"every-key"}


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.sh")), ids=lambda path: path.stem)
def test_every_golden_script_is_bash(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=60)
