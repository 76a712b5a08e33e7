"""How GPUs are asked for, habit by habit: scripts' headers and native specifications, by the byte.

After a wanted change: ``HPCRUNNER_UPDATE_GOLDEN=1 pytest tests/batch/test_gpu_dialects.py``.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.native import native_specification, sbatch_words
from hpcrunner.batch.script import render_script
from hpcrunner.request.model import Resources
from hpcrunner.sites.placement import place
from hpcrunner.sites.site import Site

GOLDEN = Path(__file__).parent / "golden_gpus"
UPDATE = "HPCRUNNER_UPDATE_GOLDEN"
GIB = 1024**3

A100 = {"type": "a100", "memory": "40G", "count": 4}
TWO = Resources(cpus=4, ram=8 * GIB, gpus=2)
# name: keys of the site, its GPU, the request, and what asks for GPUs by sbatch and by DRMAA
DIALECTS: dict[str, tuple[dict[str, Any], dict[str, Any], Resources, str, str]] = {
    "typed-gres": ({}, A100, TWO, "--gres=gpu:a100:2", "--gres=gres:gpu:a100:2"),
    "untyped-gres": (
        {},
        {"memory": "40G", "count": 4},
        TWO,
        "--gres=gpu:2",
        "--gres=gres:gpu:2",
    ),
    "gpus-per-node": (
        {"gpu_syntax": "gpus-per-node"},
        A100,
        TWO,
        "--gpus-per-node=a100:2",
        "--gres=gres:gpu:a100:2",
    ),
    "gpus": ({"gpu_syntax": "gpus"}, A100, TWO, "--gpus=a100:2", "--gres=gres:gpu:a100:2"),
    "constraint": (
        {"directives": ["--constraint=ib", "--exclusive"]},
        {"name": "a100-80g", "memory": "80G", "count": 4, "constraint": "gpu&hbm80g"},
        TWO,
        "--gres=gpu:2 --constraint=ib&gpu&hbm80g",
        "--gres=gres:gpu:2 --constraint=ib&gpu&hbm80g",
    ),
    "constraint-gpus-per-node": (
        {"gpu_syntax": "gpus-per-node"},
        {**A100, "constraint": "hbm40g"},
        TWO,
        "--gpus-per-node=a100:2 --constraint=hbm40g",
        "--gres=gres:gpu:a100:2 --constraint=hbm40g",
    ),
    "shard": (
        {"gpu_syntax": "gpus-per-node", "drmaa": {"gres_prefix": "gres/"}},
        {**A100, "shards": 8},
        Resources(gpus=1, gpu_memory=12 * GIB),
        "--gres=shard:3",
        "--gres=gres/shard:3",
    ),
    "mig": (
        {},
        {"type": "nvidia_a100_3g.20gb", "memory": "20G", "count": 8},
        TWO,
        "--gres=gpu:nvidia_a100_3g.20gb:2",
        "--gres=gres:gpu:nvidia_a100_3g.20gb:2",
    ),
    "amd": (
        {"gpu_syntax": "gpus"},
        {"type": "mi250", "memory": "64G", "count": 8, "vendor": "amd"},
        TWO,
        "--gpus=mi250:2",
        "--gres=gres:gpu:mi250:2",
    ),
}


def submission(name: str) -> tuple[Batch, Site]:
    keys, gpu, resources, _, _ = DIALECTS[name]
    given = {"name": name, "python": "/opt/hpcrunner/bin/python", **keys}
    site = Site.model_validate({**given, "partitions": [{"name": "gpu", "gpus": [gpu]}]})
    folder = Path("/home/user/.hpcrunner/batches/0123456789ab")
    return Batch("0123456789ab", place(resources, site), 1, folder), site


def of_gpus(words: list[str]) -> str:
    """The words that ask for GPUs, and for the nodes that have them."""
    return " ".join(w for w in words if w.startswith(("--gres", "--gpus", "--constraint")))


@pytest.mark.parametrize("name", DIALECTS)
def test_each_dialect_asks_sbatch_and_drmaa_for_the_same(name: str) -> None:
    batch, site = submission(name)
    *_, by_sbatch, by_drmaa = DIALECTS[name]
    native = native_specification(batch, site)
    assert of_gpus(list(sbatch_words(batch, site))) == by_sbatch
    assert of_gpus(native.split()) == by_drmaa
    script = render_script(batch, site).splitlines()
    header = [line for line in script if line.startswith("#SBATCH ")]
    text = "\n".join([*header, native, ""])
    path = GOLDEN / f"{name}.txt"
    if os.environ.get(UPDATE):
        path.write_text(text)
    assert path.read_text() == text, f"set {UPDATE}=1 if the change is wanted"


@pytest.mark.parametrize("name", DIALECTS)
def test_without_gpus_no_dialect_says_anything_of_them(name: str) -> None:
    _, site = submission(name)
    folder = Path("/home/user/.hpcrunner/batches/0123456789ab")
    batch = Batch("0123456789ab", place(Resources(cpus=4), site), 1, folder)
    own = "--constraint=ib" if name == "constraint" else ""
    assert of_gpus(list(sbatch_words(batch, site))) == own
    assert of_gpus(native_specification(batch, site).split()) == own


def test_every_golden_file_belongs_to_a_dialect() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(DIALECTS)
