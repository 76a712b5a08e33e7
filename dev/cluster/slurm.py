"""Slurm: its files, its daemons, and when the nodes are ready."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from . import accounting, files, mariadb, process, slurm_conf
from .errors import CannotHere, ClusterError
from .layout import NODES, Layout, Node
from .process import Daemon
from .settings import Secrets, Settings

# What a command finds that has no SLURM_CONF in its environment.
SYSTEM_CONF = Path("/etc/slurm/slurm.conf")
NOBODY = Path()
SOMEBODY_ELSE = Path("/")
MEMORY_CGROUPS = Path("/sys/fs/cgroup/memory")


def daemons(layout: Layout) -> list[Daemon]:
    """Accounting, controller and one slurmd per node, in the order they start."""
    conf = str(layout.slurm_conf)
    environ = {"SLURM_CONF": conf}
    accounting_environ = {"SLURM_CONF": str(layout.slurm / "slurmdbd.conf")}
    return [
        Daemon("slurmdbd", ["slurmdbd", "-D"], user="slurm", environ=accounting_environ),
        Daemon("slurmctld", ["slurmctld", "-D", "-f", conf], environ=environ),
        *(
            Daemon(
                f"slurmd-{node.name}",
                ["slurmd", "-D", "-N", node.name, "-f", conf],
                environ={**environ, process.NODE_MARK: node.name},
            )
            for node in NODES
        ),
    ]


def write_files(layout: Layout, settings: Settings, secrets: Secrets) -> bool:
    """Write all configuration; says whether running daemons have to read it anew."""
    base = files.folder(layout.slurm)
    files.folder(base / "state", "slurm", 0o700)
    files.folder(base / "run", "slurm")
    files.folder(base / "spool")
    for node in NODES:
        files.folder(base / "spool" / node.name)
    _make_devices(files.folder(base / "devices"))
    by_cgroup = memory_by_cgroup()
    text = slurm_conf.slurm_conf(layout, settings, by_cgroup)
    changed = [
        files.write(layout.slurm_conf, text),
        files.write(base / "gres.conf", slurm_conf.gres_conf(layout)),
        files.write(base / "cgroup.conf", slurm_conf.cgroup_conf(by_cgroup)),
        files.write(
            base / "slurmdbd.conf",
            slurm_conf.slurmdbd_conf(layout, secrets, mariadb.DATABASE),
            "slurm",
            0o600,
        ),
    ]
    if system_conf_owner() in (NOBODY, layout.state):
        SYSTEM_CONF.parent.mkdir(exist_ok=True)
        files.write(SYSTEM_CONF, text)
    return any(changed)


def start(layout: Layout, changed: bool) -> None:
    """Start all daemons and wait until the nodes take jobs."""
    database, *others = daemons(layout)
    if changed:
        # Jobs live on meanwhile: their slurmstepds are processes of their own.
        for daemon in (*reversed(others), database):
            process.stop(layout, daemon)
    process.start(layout, database)
    process.wait_until(layout, "slurmdbd", lambda: accounting.answers(layout), 180)
    if process.running(layout, "slurmctld") is None:
        # Before slurmctld starts, which reads the records once and is told of changes only.
        accounting.ensure(layout)
    for daemon in others:
        process.start(layout, daemon)
    process.wait_until(layout, "slurmctld", lambda: _nodes_ready(layout), 180)


def start_one(layout: Layout, name: str) -> None:
    """Start one daemon again, as last configured, and wait until it answers.

    A node's slurmd is waited for until the controller takes it for ready; where no controller
    runs, until it listens.
    """
    (daemon,) = (daemon for daemon in daemons(layout) if daemon.name == name)
    node = next((node for node in NODES if name == f"slurmd-{node.name}"), None)

    def answers() -> bool:
        if name == "slurmdbd":
            return accounting.answers(layout)
        if node is None:
            return " is UP" in _slurm(layout, "scontrol", "ping", check=False)
        if process.running(layout, "slurmctld") is None:
            return _listens(layout, node)
        return _node_ready(layout, node, node_states(layout))

    process.start(layout, daemon)
    process.wait_until(layout, name, answers, 180)


def set_down(layout: Layout, node: str) -> None:
    """Tell the controller, if it runs, that a node is dead: its jobs end as NODE_FAIL."""
    words = ("update", f"NodeName={node}", "State=DOWN", "Reason=boots")
    _slurm(layout, "scontrol", *words, check=False)


def node_states(layout: Layout) -> dict[str, str]:
    """Each node's state as sinfo words it; empty when the controller does not answer."""
    done = _slurm(layout, "sinfo", "--noheader", "--Node", "--format=%N %T", check=False)
    return dict(line.split(maxsplit=1) for line in done.splitlines() if " " in line)


def cancel_all(layout: Layout) -> None:
    """Cancel every job, so that none starts over at the next ``up``."""
    users = set(_slurm(layout, "squeue", "--noheader", "--format=%u", check=False).split())
    for user in users:
        _slurm(layout, "scancel", f"--user={user}", check=False)
    if users:
        # Those that do not end in time are killed with their nodes.
        with contextlib.suppress(ClusterError):
            process.wait_until(
                layout,
                "slurmctld",
                lambda: not _slurm(layout, "squeue", "--noheader", check=False).strip(),
                15,
            )


def refuse_second(layout: Layout) -> None:
    """One machine bears one cluster: they would share the user and /etc/slurm/slurm.conf."""
    owner = system_conf_owner()
    if owner in (NOBODY, SOMEBODY_ELSE, layout.state):
        return
    if process.running(replace(layout, state=owner), "slurmctld") is not None:
        raise CannotHere(f"another development cluster is up in {owner}: use it or stop it")
    SYSTEM_CONF.unlink()


def system_conf_owner() -> Path:
    """The state directory that /etc/slurm/slurm.conf belongs to."""
    try:
        first, second = SYSTEM_CONF.read_text().split("\n")[:2]
    except FileNotFoundError:
        return NOBODY
    except ValueError:
        return SOMEBODY_ELSE
    if first != slurm_conf.OURS or not second.startswith(slurm_conf.STATE_MARK):
        return SOMEBODY_ELSE
    return Path(second.removeprefix(slurm_conf.STATE_MARK))


def remove_system_conf(layout: Layout) -> None:
    """Take /etc/slurm/slurm.conf away again if it is that of this state directory."""
    if system_conf_owner() == layout.state:
        SYSTEM_CONF.unlink()


def memory_by_cgroup() -> bool:
    """Whether jobs can be held to their memory by the kernel: needs a writable cgroup v1."""
    if not (MEMORY_CGROUPS / "memory.oom_control").exists():
        return False
    probe = MEMORY_CGROUPS / f"hpcrunner-dev-probe-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return True


def remove_cgroups() -> None:
    """Take away the empty cgroups that slurmd leaves behind when it ends."""
    for node in NODES:
        for folder, _, _ in os.walk(MEMORY_CGROUPS / f"slurm_{node.name}", topdown=False):
            # One that is still in use belongs to somebody else's node of that name.
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def version() -> str:
    """Slurm's version, like 22.05.8."""
    return process.run(["sinfo", "--version"]).stdout.split()[-1]


def _nodes_ready(layout: Layout) -> bool:
    states = node_states(layout)
    ready = [_node_ready(layout, node, states) for node in NODES]
    return all(ready)


def _node_ready(layout: Layout, node: Node, states: Mapping[str, str]) -> bool:
    # The controller's word alone would do for a node whose death it has not noticed yet.
    if not _listens(layout, node):
        return False
    state = states.get(node.name, "")
    if state.startswith(("drain", "down")) and not state.endswith("*"):
        # A node that a killed cluster left so; its slurmd runs again by now.
        _slurm(layout, "scontrol", "update", f"NodeName={node.name}", "State=RESUME", check=False)
    return state in ("idle", "mixed", "allocated", "completing")


def _listens(layout: Layout, node: Node) -> bool:
    return process.port_open(layout.slurmd_port(node))


def _make_devices(folder: Path) -> None:
    for node in NODES:
        for index in range(node.gpus):
            path = folder / f"{node.name}-gpu{index}"
            if path.exists():
                continue
            try:
                # The null device: opening it does no harm.
                os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
            except PermissionError:
                # A container without the right to make devices; a plain file counts too.
                path.touch()
            path.chmod(0o666)


def _slurm(layout: Layout, *argv: str, check: bool = True) -> str:
    return process.run(argv, environ={"SLURM_CONF": str(layout.slurm_conf)}, check=check).stdout
