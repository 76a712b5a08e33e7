"""Clusters as they say of themselves: recorded answers of several versions of Slurm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from hpcrunner.doctor.edge import Edge
from hpcrunner.doctor.slurm.facts import COMMANDS, Facts, ask_all
from hpcrunner.schedulers.command import CommandFailed, Completed

OUTPUTS = Path(__file__).parent / "outputs"
Replies = dict[str, Completed | CommandFailed]


def replies(version: str) -> Replies:
    """What each question is answered with, by words that stand in it."""

    def text(name: str) -> Completed:
        file = OUTPUTS / version / name
        return Completed(file.read_text() if file.exists() else "", "", 0)

    return {
        "show config": text("config"),
        "show partition": text("partition"),
        "show node": text("node"),
        "show assoc": text("assoc"),
        "show user": text("user"),
        "scontrol --version": Completed(f"slurm {version}.0\n", "", 0),
        "sacct": Completed("", "", 0),
        "id -Gn": Completed("me staff\n", "", 0),
    }


@pytest.fixture
def edge(tmp_path: Path) -> Callable[..., Edge]:
    """An edge that gives these replies; Slurm's commands are on its PATH, or only those named."""

    def make(
        answers: Mapping[str, Completed | CommandFailed],
        commands: Sequence[str] = COMMANDS,
        now: float = 1_700_000_000.0,
    ) -> Edge:
        for name in commands:
            (tmp_path / name).touch(0o755)

        def runner(
            argv: Sequence[str], *, timeout: float, environment: Mapping[str, str]
        ) -> Completed:
            asked = " ".join(argv)
            for words, reply in answers.items():
                if words in asked:
                    if isinstance(reply, CommandFailed):
                        raise reply
                    return reply
            return Completed("", "no such question", 1)

        environ = {"PATH": str(tmp_path), "USER": "me", "HOME": "/home/me"}
        return Edge(runner, environ, lambda: now, lambda seconds: None)

    return make


@pytest.fixture
def facts(edge: Callable[..., Edge]) -> Callable[..., Facts]:
    """The facts of a recorded cluster, with some replies changed."""

    def make(version: str, **changed: Completed | CommandFailed) -> Facts:
        answers = replies(version)
        for name, reply in changed.items():
            answers[name.replace("_", " ")] = reply
        return ask_all(edge(answers))

    return make
