"""Faults on purpose hit what they name, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dev.cluster import faults, process
from dev.cluster.__main__ import _daemons
from dev.cluster.errors import CannotHere
from dev.cluster.gridengine.configuration import HOST
from dev.cluster.layout import Layout
from dev.cluster.process import Daemon

SLEEP = [sys.executable, "-c", "import time; time.sleep(300)"]
# A job's script: a child without any mark in its environment, then waiting.
PARENT = [
    sys.executable,
    "-c",
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'], env={})\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(300)",
]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    for folder in (layout.pids, layout.log):
        folder.mkdir()
    return layout


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    made: list[subprocess.Popen[str]] = []

    def start(argv: list[str], environ: dict[str, str]) -> subprocess.Popen[str]:
        made.append(subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE, text=True))
        return made[-1]

    yield start
    for one in made:
        one.kill()
        one.communicate()


def test_a_killed_daemon_ends_at_once_and_is_known_not_to_run(layout: Layout) -> None:
    # A shell that would not end by anything milder.
    stubborn = ["sh", "-c", "trap '' TERM INT HUP; while :; do sleep 1; done"]
    process.start(layout, Daemon("stubborn", stubborn))
    pid = process.running(layout, "stubborn")
    assert pid is not None
    assert process.kill(layout, "stubborn")
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    assert process.running(layout, "stubborn") is None
    assert not process.kill(layout, "stubborn")


def test_a_dying_node_takes_its_steps_and_jobs_and_no_other_nodes(
    layout: Layout, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    conf = {"SLURM_CONF": str(layout.slurm_conf)}
    slurmd = spawn(SLEEP, {**conf, process.NODE_MARK: "n0"})
    job = spawn(PARENT, {**conf, "SLURMD_NODENAME": "n0"})
    unmarked_child = int(job.stdout.readline())  # type: ignore[union-attr]
    elsewhere = spawn(SLEEP, {**conf, "SLURMD_NODENAME": "n1"})
    other_cluster = spawn(SLEEP, {"SLURM_CONF": "/etc/slurm.conf", "SLURMD_NODENAME": "n0"})
    until_started((elsewhere, other_cluster, slurmd))
    killed = process.kill_node(layout, "n0")
    assert set(killed) == {slurmd.pid, job.pid, unmarked_child}
    assert slurmd.wait(60) == job.wait(60) == -signal.SIGKILL
    assert not process.alive(unmarked_child)
    assert elsewhere.poll() is other_cluster.poll() is None


def test_the_host_of_grid_engine_dies_with_its_jobs_and_no_slurm_node_does(
    layout: Layout, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    ours = {process.MARK: str(layout.state), "SLURM_CONF": ""}
    execd = spawn(PARENT, {**ours, process.NODE_MARK: HOST})
    unmarked_child = int(execd.stdout.readline())  # type: ignore[union-attr]
    slurmd = spawn(SLEEP, {**ours, process.NODE_MARK: "n0"})
    elsewhere = spawn(SLEEP, {**ours, process.MARK: "/srv/dev", process.NODE_MARK: HOST})
    until_started((execd, slurmd, elsewhere))
    assert faults.fail_node(layout, HOST) == 2
    assert execd.wait(60) == -signal.SIGKILL and not process.alive(unmarked_child)
    assert slurmd.poll() is elsewhere.poll() is None


@pytest.mark.parametrize("act", [faults.kill, faults.start, faults.fail_node, faults.return_node])
def test_a_server_that_there_is_not_is_refused(
    layout: Layout, act: Callable[[Layout, str], object]
) -> None:
    with pytest.raises(CannotHere, match="name one of"):
        act(layout, "n9")


def test_every_daemon_of_the_cluster_can_be_killed_and_started(layout: Layout) -> None:
    # Erlang's name service belongs to RabbitMQ, and is started with it.
    assert {*faults.SERVERS, "epmd"} == {daemon.name for daemon in _daemons(layout)}


def until_started(started: tuple[subprocess.Popen[str], ...]) -> None:
    """A forked child shows its parent's environment until it has become its program."""
    end = time.monotonic() + 60
    for one in started:
        while b"SLURM_CONF=" not in Path(f"/proc/{one.pid}/environ").read_bytes():
            assert time.monotonic() < end
            time.sleep(0.01)
