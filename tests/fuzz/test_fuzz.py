"""The fuzzer's targets: every seed, what it once found, and a short run of each.

A longer run: tests/fuzz/README.md.
"""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from seeds import SEEDS, kept, words  # noqa: E402
from targets import TARGETS  # noqa: E402

# By what an input costs: some take a process a hundred times longer than others.
RUNS = {"archive": 300, "archive_members": 300, "sealed_inside": 200, "metadata_lines": 500}
MANY = 1000


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_and_what_was_once_found_do_no_harm(target: str) -> None:
    for data in (*SEEDS[target], *kept(target)):
        TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_spoiled_by_chance_do_no_harm(target: str) -> None:
    chance = random.Random(target)
    for _ in range(RUNS.get(target, MANY) // 10):
        data = bytearray(chance.choice(SEEDS[target]))
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(data) + 1)
            how = chance.randrange(4)
            if how == 0 and at < len(data):
                data[at] = chance.randrange(256)
            elif how == 1:
                data[at:at] = chance.choice(words(target))
            elif how == 2:
                del data[at : at + chance.randint(1, 20)]
            else:
                data[at:at] = data[: chance.randint(0, 64)]
        TARGETS[target](bytes(data))


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris is not installed: it has wheels for CPython 3.11 on x86-64",
)
@pytest.mark.parametrize("target", TARGETS)
def test_a_short_run_guided_by_coverage_finds_nothing(target: str, tmp_path: Path) -> None:
    runs = RUNS.get(target, MANY)
    done = subprocess.run(
        [sys.executable, str(HERE / "fuzz.py"), target, f"-runs={runs}", "-seed=1"],
        cwd=tmp_path,  # where an input that fails would be written
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-2000:]
    assert f"Done {runs} runs" in done.stderr
