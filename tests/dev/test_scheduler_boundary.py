"""Whose words stand where: a scheduler's own are in its own files, so that another can be added.

Identifiers and texts count, docstrings and comments do not: those may compare. The site file is
written in Slurm's words by choice, and what it says about itself is for people, so ``sites/`` is
bound by names of commands and variables only where it acts on them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

import hpcrunner

ROOT = Path(hpcrunner.__file__).parent
SLURM = re.compile(
    r"(?i:slurm)|\b(sbatch|squeue|sacct|scancel|scontrol|sinfo|srun|sacctmgr|gres|tres)\b|SBATCH_"
)
GRID_ENGINE = re.compile(
    r"(?i:grid_?engine|grid engine)|\b(q(sub|stat|acct|del|conf|mod|host)|h_vmem|h_rt)\b|SGE_"
)
# Where schedulers are told apart and chosen from, each by its name or in its words.
BOTH = (
    "batch/dialect.py",
    "schedulers/choose.py",
    "request/scheduler_words.py",
    "sites/*.py",
    "doctor/edge.py",
    "doctor/examine.py",
    "doctor/node.py",
)
OWN = {
    "Slurm": (
        "batch/native.py",
        "batch/pyslurm.py",
        "cli/site_init.py",
        "doctor/slurm/*.py",
        "schedulers/pyslurm_*.py",
        "schedulers/refusals.py",
        "schedulers/sacct.py",
        "schedulers/sbatch*.py",
        "schedulers/scancel.py",
        "schedulers/scontrol.py",
        "schedulers/sightings.py",
        "schedulers/slurm*.py",
        "schedulers/squeue.py",
        "schedulers/states.py",
    ),
    "Grid Engine": (
        "batch/gridengine.py",
        "doctor/gridengine.py",
        "schedulers/gridengine/*.py",
    ),
}
WORDS = {"Slurm": SLURM, "Grid Engine": GRID_ENGINE}


def said(source: str) -> Iterator[tuple[int, str]]:
    """Each identifier and text of a module with its line, but for docstrings."""
    tree = ast.parse(source)
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        for name in ("id", "attr", "name", "arg", "asname", "module"):
            text = getattr(node, name, None)
            if isinstance(text, str) and not text.startswith("hpcrunner.sites."):
                yield line, text
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield line, node.value


def foreign(words: re.Pattern[str], allowed: tuple[str, ...]) -> list[str]:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if any(fnmatch(name, pattern) for pattern in allowed):
            continue
        found += [
            f"{name}:{line}: {text[:80]}"
            for line, text in said(path.read_text())
            if words.search(text)
        ]
    return found


@pytest.mark.parametrize("scheduler", sorted(OWN))
def test_a_schedulers_words_stand_in_its_own_files(scheduler: str) -> None:
    assert foreign(WORDS[scheduler], BOTH + OWN[scheduler]) == []


def test_a_word_out_of_place_would_be_found() -> None:
    text = '"""squeue may be named here."""\nx = ["squeue"]\nclass SlurmThing: ...\n'
    assert [line for line, word in said(text) if SLURM.search(word)] == [3, 2]


@pytest.mark.parametrize("scheduler", sorted(OWN))
def test_every_file_that_is_a_schedulers_own_is_there(scheduler: str) -> None:
    names = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py")]
    assert [p for p in BOTH + OWN[scheduler] if not any(fnmatch(n, p) for n in names)] == []
