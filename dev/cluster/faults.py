"""Faults on purpose: one server dies without a warning, or a whole node; and comes back."""

from __future__ import annotations

from . import mariadb, munge, process, rabbitmq, s3, slurm
from .errors import CannotHere
from .gridengine import configuration
from .gridengine import server as gridengine
from .layout import NODES, Layout
from .settings import Secrets

SERVERS = (
    "rabbitmq",
    "s3",
    "munged",
    "mariadb",
    "slurmdbd",
    "slurmctld",
    *(f"slurmd-{node.name}" for node in NODES),
    *gridengine.NAMES,
)


def kill(layout: Layout, server: str) -> bool:
    """SIGKILL one server; says whether it ran. A slurmd's jobs run on, as in reality."""
    return process.kill(layout, _known(server))


def start(layout: Layout, server: str) -> None:
    """Start one server as ``up`` does, and wait until it answers. It may run already."""
    secrets = Secrets.load(layout)
    if _known(server) == "rabbitmq":
        rabbitmq.start(layout, secrets)
        rabbitmq.wait(layout, secrets)
    elif server == "s3":
        s3.start(layout, secrets)
    elif server == "munged":
        munge.start(layout)
    elif server == "mariadb":
        mariadb.start(layout, secrets)
    elif server in gridengine.NAMES:
        gridengine.start_one(layout, server)
    else:
        slurm.start_one(layout, server)


def fail_node(layout: Layout, node: str) -> int:
    """Let a node die: slurmd, steps and jobs, all at once. Returns how many processes died.

    Slurm calls it DOWN, and its jobs NODE_FAIL, when it has not answered for SlurmdTimeout, or
    when it returns.
    """
    if node == configuration.HOST:
        return gridengine.fail_host(layout)
    killed = process.kill_node(layout, _a_node(node))
    process.kill(layout, f"slurmd-{node}")
    return len(killed)


def return_node(layout: Layout, node: str) -> None:
    """Boot a node again, and wait until it takes jobs."""
    if node == configuration.HOST:
        gridengine.start_one(layout, gridengine.EXECD)
        return
    if process.running(layout, f"slurmd-{_a_node(node)}") is None:
        # A real machine boots for longer than Slurm waits for it. This one is back at once, and
        # the controller would take the jobs it had for running until it misses them by chance.
        slurm.set_down(layout, node)
    slurm.start_one(layout, f"slurmd-{node}")


def _known(server: str) -> str:
    if server not in SERVERS:
        raise CannotHere(f"no server {server!r}: name one of {', '.join(SERVERS)}")
    return server


def _a_node(node: str) -> str:
    names = [known.name for known in NODES]
    if node not in names:
        allowed = ", ".join([*names, f"{configuration.HOST} (Grid Engine's)"])
        raise CannotHere(f"no node {node!r}: name one of {allowed}")
    return node
