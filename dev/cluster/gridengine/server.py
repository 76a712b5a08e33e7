"""Grid Engine's two daemons: making the cell, starting them, and when they take jobs."""

from __future__ import annotations

import os
import re
import shutil
import socket
from pathlib import Path

from .. import files, process
from ..layout import Layout
from ..process import Daemon
from . import configuration as conf
from . import programs

QMASTER = "qmaster"
EXECD = "execd"
NAMES = (QMASTER, EXECD)
ARCHITECTURE = "lx-amd64"
MADE = "made"
_KINDS = "admin_hosts centry cqueues exec_hosts hostgroups pe submit_hosts usersets managers"
_PARTS = ("root", *(f"qmaster/{kind}" for kind in _KINDS.split()))
_CHANGING = ("accounting", "schedd_runlog")


def environ(layout: Layout) -> dict[str, str]:
    """What every command and daemon needs to find the cell, as a site's settings.sh has it."""
    return {
        "SGE_ROOT": str(layout.gridengine_root),
        "SGE_CELL": conf.CELL,
        "SGE_QMASTER_PORT": str(layout.qmaster_port),
        "SGE_EXECD_PORT": str(layout.execd_port),
    }


def binaries(layout: Layout) -> Path:
    """The folder of qsub, qstat, …"""
    return layout.gridengine_root / "bin" / ARCHITECTURE


def daemons(layout: Layout) -> list[Daemon]:
    """The master, then the one execution host. ``SGE_ND``: they stay in the foreground."""
    variables = {**environ(layout), "SGE_ND": "1"}
    return [
        Daemon(QMASTER, [str(binaries(layout) / "sge_qmaster")], environ=variables),
        Daemon(
            EXECD,
            [str(binaries(layout) / "sge_execd")],
            environ={**variables, process.NODE_MARK: conf.HOST},
        ),
    ]


def present(layout: Layout) -> bool:
    """Whether it was started here before, and may run."""
    return _made(layout).exists()


def start(layout: Layout) -> None:
    """Make the cell where there is none or not all of one, start both daemons, wait until jobs
    can run.
    """
    programs.install(layout)
    whole = is_whole(layout.gridengine)
    if not whole:
        _made(layout).unlink(missing_ok=True)
        for daemon in reversed(daemons(layout)):
            process.stop(layout, daemon)
        _make_cell(layout)
    _accounting(layout).touch()  # without it qacct fails until a first job has ended
    start_one(layout, QMASTER)
    if whole:
        _restore(layout)
    else:
        _configure(layout)
        record(layout.gridengine)
    start_one(layout, EXECD)


def start_one(layout: Layout, name: str) -> None:
    """Start one daemon and wait: for the master until it answers, for the host until it is in."""
    (daemon,) = (daemon for daemon in daemons(layout) if daemon.name == name)

    def ready() -> bool:
        # A master that was away knows its host again once both have spoken.
        if name == QMASTER and process.running(layout, EXECD) is None:
            return _answers(layout)
        return process.running(layout, QMASTER) is None or (_answers(layout) and _reports(layout))

    process.start(layout, daemon)
    process.wait_until(layout, name, ready, 180)


def fail_host(layout: Layout) -> int:
    """Let the host die: daemon, shepherds and jobs. Returns how many processes died.

    The master calls it unknown after max_unheard, and its jobs failed when it returns.
    """
    killed = process.kill_below(layout, EXECD, conf.HOST)
    process.kill(layout, EXECD)
    return len(killed)


def cancel_all(layout: Layout) -> None:
    """Delete every job, so that none is looked for at the next ``up``."""
    if process.running(layout, QMASTER) is not None:
        command(layout, "qdel", "-f", "-u", "*", check=False)


def facts(layout: Layout) -> dict[str, object] | None:
    """What cluster.json says of it; None where there is none."""
    if process.running(layout, QMASTER) is None:
        return None
    return {
        "environment": environ(layout),
        "binaries": str(binaries(layout)),
        "drmaa_library": str(programs.drmaa_library(layout)),
        "version": version(layout),
        "host": conf.HOST,
        "slots": conf.SLOTS,
        "memory": conf.MEMORY,
        "memory_resource": "h_vmem",
        "gpu_resource": "gpu",
        "gpus": conf.GPUS,
        "parallel_environment": conf.PARALLEL_ENVIRONMENT,
        "project": conf.PROJECT,
        "notify_seconds": conf.NOTIFY_SECONDS,
        "max_array_tasks": conf.MAX_ARRAY_TASKS,
        "queues": {
            queue.name: {"slots": queue.slots, "max_time_seconds": queue.hard_limit_seconds}
            for queue in conf.QUEUES
        },
    }


def version(layout: Layout) -> str:
    """Like ``8.1.9``; ``qstat -help`` begins with it."""
    return command(layout, "qstat", "-help", check=False).partition("\n")[0].split()[-1]


def command(layout: Layout, program: str, *words: str, check: bool = True) -> str:
    """What a command of Grid Engine prints, called as root."""
    argv = [str(binaries(layout) / program), *words]
    return process.run(argv, environ=environ(layout), timeout=30, check=check).stdout


def record(folder: Path) -> None:
    """Write down what a cell consists of, once it is made, but for what comes and goes."""
    parts = [folder / name for name in _PARTS]
    files_ = [path for part in parts for path in (part, *part.rglob("*")) if _lasts(path)]
    names = sorted(str(path.relative_to(folder)) for path in files_)
    (folder / MADE).write_text("".join(f"{name}\n" for name in names))


def is_whole(folder: Path) -> bool:
    """Whether a cell was made there and has lost nothing since."""
    try:
        names = (folder / MADE).read_text().splitlines()
    except OSError:
        return False
    return bool(names) and all(os.path.lexists(folder / name) for name in names)


def _lasts(path: Path) -> bool:
    return (path.is_symlink() or path.is_file()) and path.name not in _CHANGING


def _made(layout: Layout) -> Path:
    return layout.gridengine / MADE


def _accounting(layout: Layout) -> Path:
    return layout.gridengine_root / conf.CELL / "common" / "accounting"


def _answers(layout: Layout) -> bool:
    return conf.HOST in command(layout, "qconf", "-sh", check=False)


def _reports(layout: Layout) -> bool:
    # A queue instance that has not heard of its host is in state "au", later "u".
    if not process.port_open(layout.execd_port):
        return False
    rows = command(layout, "qstat", "-f", "-q", conf.QUEUES[0].name, check=False).splitlines()
    found = [row.split() for row in rows if row.startswith(f"{conf.QUEUES[0].name}@")]
    return bool(found) and (len(found[0]) < 6 or "u" not in found[0][5])


def _make_cell(layout: Layout) -> None:
    base = files.folder(layout.gridengine)
    root = layout.gridengine_root
    for old in (root, base / "qmaster", base / "execd"):
        shutil.rmtree(old, ignore_errors=True)
    for folder in (root, root / "bin", root / "lib", root / conf.CELL):
        files.folder(folder)
    common = files.folder(root / conf.CELL / "common")
    for name in ("bin", "lib"):
        (root / name / ARCHITECTURE).symlink_to(programs.FIXED)
    (root / "util").symlink_to(programs.resources(layout).parent)
    for folder in (base / "qmaster", base / "qmaster" / "job_scripts", base / "execd"):
        files.folder(folder)
    files.write(common / "bootstrap", conf.bootstrap(layout))
    files.write(common / "act_qmaster", f"{conf.HOST}\n")
    files.write(base / "settings.sh", _settings(layout))
    files.write(common / "host_aliases", f"{conf.HOST} {socket.gethostname()}\n")
    _spool(layout, "spoolinit", "classic", "libspoolc", f"{common};{base / 'qmaster'}", "init")
    entries = base / "centry"
    shutil.rmtree(entries, ignore_errors=True)
    shutil.copytree(programs.resources(layout) / "centry", entries)
    for name in conf.COMPLEXES:
        files.write(entries / name, conf.complex_entry(name))
    files.write(base / "configuration", conf.cluster(layout))
    _spool(layout, "spooldefaults.bin", "configuration", str(base / "configuration"))
    _spool(layout, "spooldefaults.bin", "complexes", str(entries))
    _spool(layout, "spooldefaults.bin", "usersets", str(programs.resources(layout) / "usersets"))
    _spool(layout, "spooldefaults.bin", "managers", "root")


def _settings(layout: Layout) -> str:
    """What a person sources, as on every cluster with Grid Engine."""
    exports = [f"export {name}={value}" for name, value in environ(layout).items()]
    return "\n".join([*exports, f"export PATH={binaries(layout)}:$PATH", ""])


def _configure(layout: Layout) -> None:
    entry = layout.gridengine / "entry"

    def add(option: str, text: str) -> None:
        files.write(entry, text)
        command(layout, "qconf", option, str(entry))

    command(layout, "qconf", "-as", conf.HOST)
    add("-Msconf", conf.SCHEDULER)
    add("-Ae", conf.HOST_ENTRY)
    add("-Ap", conf.PE_ENTRY)
    add("-Aprj", conf.PROJECT_ENTRY)
    for queue in conf.QUEUES:
        add("-Aq", conf.queue_entry(queue))


def _restore(layout: Layout) -> None:
    """Take back what a test had changed when it was killed."""
    there = command(layout, "qconf", "-sconf", "global")
    text = there
    for name in conf.CHANGED_BY_TESTS:
        (line,) = re.findall(rf"(?m)^{name} .*", conf.cluster(layout))
        text = re.sub(rf"(?m)^{name} .*", line, text)
    if text.split() != there.split():
        entry = layout.gridengine / "global"  # whose name says which configuration it is
        files.write(entry, text)
        command(layout, "qconf", "-Mconf", str(entry))


def _spool(layout: Layout, program: str, *words: str) -> None:
    libraries = {"LD_LIBRARY_PATH": str(programs.FIXED)}
    process.run([str(programs.FIXED / program), *words], environ={**environ(layout), **libraries})
