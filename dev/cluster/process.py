"""Starting, finding and stopping processes, and waiting for what they offer."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .errors import ClusterError
from .layout import LOOPBACK, Layout

# Set in the environment of every daemon. slurmd hands it to its slurmstepds, so that these
# are found again although no pid file names them.
MARK = "HPCRUNNER_DEV_DAEMON_OF"

# The same, for the node that a slurmd plays. Slurm's own SLURMD_NODENAME is in jobs only.
NODE_MARK = "HPCRUNNER_DEV_NODE"

# The exit code of a command that took too long, as timeout(1) has it.
OUT_OF_TIME = 124

# Seconds for a process to be gone after SIGKILL, a large one on a busy machine among them.
KILLED = 60.0

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Environ = frozenset[bytes]


@dataclass(frozen=True)
class Daemon:
    """One process to keep in the background, in the foreground mode of its program."""

    name: str
    argv: Sequence[str]
    user: str = "root"
    environ: Mapping[str, str] = field(default_factory=dict)
    stop_seconds: float = 20.0


def run(
    argv: Sequence[str],
    *,
    environ: Mapping[str, str] | None = None,
    user: str | None = None,
    stdin: str = "",
    timeout: float = 120.0,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end with a small, predictable environment.

    One that takes longer than it may has failed.
    """
    uid, gid, groups = _identity(user)
    try:
        done = subprocess.run(
            list(argv),
            env={"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8", **(environ or {})},
            input=stdin,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            user=uid,
            group=gid,
            extra_groups=groups,
        )
    except subprocess.TimeoutExpired as error:
        done = subprocess.CompletedProcess(list(argv), OUT_OF_TIME, "", str(error))
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise ClusterError(f"{' '.join(argv)} ended with {done.returncode}: {said}")
    return done


def start(layout: Layout, daemon: Daemon) -> None:
    """Start a daemon unless it runs already."""
    if running(layout, daemon.name) is not None:
        return
    uid, gid, groups = _identity(daemon.user)
    with (layout.log / f"{daemon.name}.log").open("ab") as log:
        process = subprocess.Popen(
            list(daemon.argv),
            env={
                "PATH": SYSTEM_PATH,
                "LC_ALL": "C.UTF-8",
                **daemon.environ,
                MARK: str(layout.state),
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            user=uid,
            group=gid,
            extra_groups=groups,
        )
    pid_file = layout.pids / daemon.name
    pid_file.write_text(f"{process.pid} {_start_time(process.pid)}\n")
    # The daemon outlives this command; without this, Popen warns that it still runs.
    process.returncode = 0


def running(layout: Layout, name: str) -> int | None:
    """The pid of a daemon that was started here and still lives, else None."""
    try:
        pid, started = (layout.pids / name).read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    # The time of start tells our process from another one that got its number later.
    return int(pid) if alive(int(pid)) and _start_time(int(pid)) == started else None


def kill(layout: Layout, name: str) -> bool:
    """End a daemon without a warning, its children left to themselves; says whether it ran."""
    pid = running(layout, name)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _gone([pid], KILLED)
    (layout.pids / name).unlink(missing_ok=True)
    return pid is not None


def stop(layout: Layout, daemon: Daemon) -> None:
    """Ask a daemon to end, then make it."""
    pid = running(layout, daemon.name)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        if not _gone([pid], daemon.stop_seconds):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            _gone([pid], KILLED)
    (layout.pids / daemon.name).unlink(missing_ok=True)


def sweep(layout: Layout) -> list[int]:
    """Kill what the daemons left behind, slurmstepds and their jobs included.

    Returns the pids. A shell or a test run that merely uses the cluster is not touched:
    it bears neither the mark nor the traces of a job.
    """
    mark = f"{MARK}={layout.state}".encode()
    conf = _conf(layout)

    def ours(environ: Environ) -> bool:
        of_a_job = conf in environ and any(e.startswith(b"SLURM_JOB_ID=") for e in environ)
        return mark in environ or of_a_job

    swept: list[int] = []
    while pids := _matching(ours) - set(swept):
        swept += pids
        _signal(pids, signal.SIGKILL)
        _gone(list(pids), KILLED)
    return swept


def kill_node(layout: Layout, node: str) -> list[int]:
    """Kill a node's slurmd, its slurmstepds and all processes of its jobs; returns the pids."""
    conf = _conf(layout)
    of_the_node = {f"{NODE_MARK}={node}".encode(), f"SLURMD_NODENAME={node}".encode()}
    return _kill_at_once(lambda environ: conf in environ and not of_the_node.isdisjoint(environ))


def kill_below(layout: Layout, name: str, node: str) -> list[int]:
    """Kill the daemon that plays this node and all below it, what an earlier one left included;
    returns the pids.
    """
    marks = {f"{MARK}={layout.state}".encode(), f"{NODE_MARK}={node}".encode()}
    pid = running(layout, name)
    return _kill_at_once(lambda environ: marks <= environ, {pid} if pid is not None else set())


def _kill_at_once(wanted: Callable[[Environ], bool], roots: Collection[int] = ()) -> list[int]:
    """As in a power failure nobody sees another die: all are stopped before one is killed."""
    frozen: set[int] = set()
    while new := _matching(wanted, roots) - frozen:
        _signal(new, signal.SIGSTOP)
        frozen |= new
    _signal(frozen, signal.SIGKILL)
    _gone(list(frozen), KILLED)
    return sorted(frozen)


def wait_until(layout: Layout, name: str, ready: Callable[[], bool], seconds: float) -> None:
    """Poll until a daemon is ready, or fail with the last lines of its log."""
    log = layout.log / f"{name}.log"
    deadline = time.monotonic() + seconds
    while not ready():
        ended = running(layout, name) is None
        if ended or time.monotonic() > deadline:
            trouble = "ended" if ended else f"was not ready after {seconds:.0f} s"
            last = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
            raise ClusterError(f"{name} {trouble}; {log} ends with:\n{last}")
        time.sleep(0.1)


def port_open(port: int) -> bool:
    """Whether something listens on a loopback port."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1):
            return True
    except OSError:
        return False


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie; not every container reaps its orphans."""
    return _stat(pid)[:1] not in ([], ["Z"], ["X"])


def _identity(user: str | None) -> tuple[int | None, int | None, list[int] | None]:
    """User, group and further groups to start a process with; None leaves them as they are."""
    if user is None or user == "root":
        return None, None, None
    entry = pwd.getpwnam(user)
    return entry.pw_uid, entry.pw_gid, os.getgrouplist(user, entry.pw_gid)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty when there is no such process."""
    try:
        # A name may be cut off in the middle of a letter.
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    # The command's name stands in parentheses and may hold blanks and parentheses itself.
    return text.rpartition(")")[2].split()


def _start_time(pid: int) -> str:
    fields = _stat(pid)
    return fields[19] if fields else "gone"


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _gone(pids: Sequence[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _conf(layout: Layout) -> bytes:
    return f"SLURM_CONF={layout.slurm_conf}".encode()


def _signal(pids: Collection[int], number: signal.Signals) -> None:
    for pid in sorted(pids):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _matching(wanted: Callable[[Environ], bool], roots: Collection[int] = ()) -> set[int]:
    """Living processes that are roots or whose environment is wanted, and their descendants; none
    of our own.
    """
    marked = set(roots)
    others: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        pid = int(entry.name)
        try:
            environ = frozenset((entry / "environ").read_bytes().split(b"\0"))
        except OSError:
            continue
        if wanted(environ):
            marked.add(pid)
        else:
            others.append(pid)
    ours = _ancestors(os.getpid())
    for pid in others:
        if _ancestors(pid) & marked:
            marked.add(pid)
    return {pid for pid in marked - ours if alive(pid)}


def _ancestors(pid: int) -> set[int]:
    found: set[int] = set()
    while (pid := _parent(pid)) > 1 and pid not in found:
        found.add(pid)
    return found
