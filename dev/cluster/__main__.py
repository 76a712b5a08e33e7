"""The command line: ``python3 -m dev.cluster``."""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import (
    apptainer,
    facts,
    faults,
    files,
    install,
    mariadb,
    munge,
    process,
    rabbitmq,
    s3,
    slurm,
    user,
    venv,
)
from .errors import CannotHere, ClusterError
from .gridengine import programs
from .gridengine import server as gridengine
from .layout import Layout
from .process import Daemon
from .settings import Secrets, Settings

FAILED = 1
CANNOT_HERE = 3


def main() -> int:
    """Run one command and turn its ending into an exit code."""
    arguments = _parser().parse_args()
    command: Callable[[Layout, argparse.Namespace], int] = arguments.command
    try:
        return command(Layout.from_environment(), arguments)
    except CannotHere as error:
        print(f"dev.cluster: {error}", file=sys.stderr)
        return CANNOT_HERE
    except (ClusterError, OSError) as error:
        print(f"dev.cluster: {error}", file=sys.stderr)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m dev.cluster",
        description="Slurm, Grid Engine, RabbitMQ and S3 on loopback, for development and tests.",
        epilog="Ends with 0, with 1 on failure, with 3 where this machine or user cannot run it.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, command: Callable[[Layout, argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=command)
        return added

    add("install", _install, "install the programs (apt, pip)")
    up = add("up", _up, "start all and wait until it is ready; installs what is missing")
    up.add_argument(
        "--min-job-age",
        type=int,
        metavar="SECONDS",
        help="how long Slurm remembers an ended job (HPCRUNNER_DEV_MIN_JOB_AGE; 300)",
    )
    add("clear", _clear, "cancel every job; all goes on running")
    add("down", _down, "stop all; data stays")
    add("status", _status, "show what runs; ends with 1 if a part does not")
    add("env", _env, "print shell exports that point programs at the cluster")
    add("destroy", _destroy, "stop all and remove data, user and configuration")
    kill = add("kill", _kill, "kill one server (SIGKILL), to see what that does")
    kill.add_argument("server", choices=faults.SERVERS)
    start = add("start", _start, "start one server again and wait until it answers")
    start.add_argument("server", choices=faults.SERVERS)
    fail = add("node-fail", _node_fail, "kill a node with all that runs on it")
    fail.add_argument("node")
    back = add("node-return", _node_return, "boot a node again and wait until it takes jobs")
    back.add_argument("node")
    wheels = add("user-venv", _user_venv, "install wheels for the ordinary user")
    wheels.add_argument("wheel", nargs="+", metavar="WHEEL", help="a path, extras as in a.whl[x]")
    return parser


def _install(layout: Layout, _: argparse.Namespace) -> int:
    with _changing(layout):
        changed = [install.install(layout), apptainer.install(layout)]
        print("installed" if any(changed) else "everything is there already")
    return 0


def _up(layout: Layout, arguments: argparse.Namespace) -> int:
    with _changing(layout):
        slurm.refuse_second(layout)
        install.install(layout)
        apptainer.install(layout)
        settings = Settings.load(layout).given(os.environ, arguments.min_job_age)
        settings.save(layout)
        secrets = Secrets.load(layout)
        for path in (layout.pids, layout.log):
            files.folder(path)
        user.ensure(layout)
        rabbitmq.start(layout, secrets)
        s3.start(layout, secrets)
        munge.start(layout)
        mariadb.start(layout, secrets)
        changed = slurm.write_files(layout, settings, secrets)
        slurm.start(layout, changed)
        _start_gridengine(layout)
        rabbitmq.wait(layout, secrets)
        facts.write(layout, settings, secrets)
    print(f"up; see {layout.facts}")
    if slurm.system_conf_owner() != layout.state:
        print(f"{slurm.SYSTEM_CONF} is not ours: commands need SLURM_CONF={layout.slurm_conf}")
    return 0


def _start_gridengine(layout: Layout) -> None:
    """The second scheduler is one that a machine may do without: its tests then skip."""
    try:
        gridengine.start(layout)
    except CannotHere as error:
        print(f"without Grid Engine: {error}", file=sys.stderr)


def _clear(layout: Layout, _: argparse.Namespace) -> int:
    with _changing(layout):
        _cancel_all(layout)
    print("no jobs")
    return 0


def _cancel_all(layout: Layout) -> None:
    if process.running(layout, "slurmctld") is not None:
        slurm.cancel_all(layout)
    gridengine.cancel_all(layout)


def _down(layout: Layout, _: argparse.Namespace) -> int:
    install.need_root()
    if not layout.state.exists():
        print("nothing was ever up")
        return 0
    with _changing(layout):
        _stop(layout)
    print("down")
    return 0


def _stop(layout: Layout) -> None:
    layout.facts.unlink(missing_ok=True)
    _cancel_all(layout)
    for daemon in reversed(_daemons(layout)):
        process.stop(layout, daemon)
    process.sweep(layout)
    slurm.remove_cgroups()


def _status(layout: Layout, _: argparse.Namespace) -> int:
    if not layout.state.exists():
        print("not installed")
        return FAILED
    complete = True
    for daemon in _daemons(layout):
        pid = process.running(layout, daemon.name)
        wanted = daemon.name not in gridengine.NAMES or gridengine.present(layout)
        complete = complete and (pid is not None or not wanted)
        print(f"{daemon.name:10} {'pid ' + str(pid) if pid else 'down'}")
    for node, state in slurm.node_states(layout).items():
        print(f"node {node}: {state}")
    return 0 if complete else FAILED


def _env(layout: Layout, _: argparse.Namespace) -> int:
    for name, value in facts.exports(facts.read(layout)).items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def _destroy(layout: Layout, _: argparse.Namespace) -> int:
    install.need_root()
    if layout.state.exists():
        if not layout.secrets.exists() and any(layout.state.iterdir()):
            raise CannotHere(f"{layout.state} was not made by this cluster; not removed")
        with _changing(layout):
            _stop(layout)
            user.remove(layout)
            apptainer.remove(layout)
            slurm.remove_system_conf(layout)
            programs.remove(layout)
            shutil.rmtree(layout.state)
    print("destroyed")
    return 0


def _kill(layout: Layout, arguments: argparse.Namespace) -> int:
    with _changing(layout):
        ran = faults.kill(layout, arguments.server)
    print(f"{arguments.server}: {'killed' if ran else 'did not run'}")
    return 0


def _start(layout: Layout, arguments: argparse.Namespace) -> int:
    with _changing(layout):
        faults.start(layout, arguments.server)
    print(f"{arguments.server}: answers")
    return 0


def _node_fail(layout: Layout, arguments: argparse.Namespace) -> int:
    with _changing(layout):
        killed = faults.fail_node(layout, arguments.node)
    print(f"{arguments.node}: {killed} processes killed")
    return 0


def _node_return(layout: Layout, arguments: argparse.Namespace) -> int:
    with _changing(layout):
        faults.return_node(layout, arguments.node)
    print(f"{arguments.node}: takes jobs")
    return 0


def _user_venv(layout: Layout, arguments: argparse.Namespace) -> int:
    with _changing(layout):
        files.folder(layout.home.parent)
        user.ensure(layout)
        changed = venv.update(layout, arguments.wheel)
    print(f"{layout.venv}: {'installed ' + ' '.join(changed) if changed else 'nothing changed'}")
    return 0


def _daemons(layout: Layout) -> list[Daemon]:
    """All daemons in the order they start."""
    secrets = Secrets("", "", "", "", "")
    return [
        *rabbitmq.daemons(layout),
        s3.daemon(layout, secrets),
        munge.daemon(layout),
        mariadb.daemon(layout),
        *slurm.daemons(layout),
        *gridengine.daemons(layout),
    ]


@contextmanager
def _changing(layout: Layout) -> Iterator[None]:
    """One change at a time: a test run and a person may both say ``up``."""
    install.need_root()
    _make_state(layout.state)
    with layout.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_state(state: Path) -> None:
    state.parent.mkdir(parents=True, exist_ok=True)
    files.folder(state)


if __name__ == "__main__":
    sys.exit(main())
