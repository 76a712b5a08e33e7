"""The login node: versions, limits, sessions, environment, and who works on the spool."""

from __future__ import annotations

import json
import platform
import resource
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hpcrunner import __version__
from hpcrunner.doctor.edge import Edge
from hpcrunner.doctor.finding import Finding, fault, not_tried, ok, warning
from hpcrunner.gateway.lock import holder_of
from hpcrunner.request.units import format_bytes, format_duration
from hpcrunner.schedulers.command import CommandFailed
from hpcrunner.sites.site import Site

_LEAST_PROCESSES, _LEAST_FILES, _LEAST_SPACE = 64, 256, 4 << 30
_TELL = (
    "import json, sys, platform, hpcrunner; "
    "print(json.dumps([platform.python_version(), hpcrunner.__version__, sys.executable]))"
)


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The site's ``python`` as it answers here; ``trouble`` where it does not, ``missing`` where it
    is not there at all.
    """

    path: str
    python: str = ""
    hpcrunner: str = ""
    trouble: str = ""
    missing: bool = False


@dataclass(frozen=True, slots=True)
class LimitsHere:
    """Limits of processes on this host; None for none. ``cpu`` in seconds, ``space`` in bytes."""

    cpu: int | None = None
    processes: int | None = None
    files: int | None = None
    space: int | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """What systemd does with a user who logs out; None where it does not say."""

    lingers: bool | None = None
    kills: bool | None = None


def interpreter(site: Site, edge: Edge) -> Interpreter:
    """Ask the site's interpreter for its versions, as the batch script starts it."""
    path = site.python if "/" in site.python else edge.find(site.python)
    if not path or not Path(path).exists():
        return Interpreter(site.python, missing=True)
    try:
        done = edge.ask([path, "-I", "-c", _TELL])
        python, version, _ = json.loads(done.stdout.strip() or "[]")
    except CommandFailed as error:
        return Interpreter(path, trouble=error.what)
    except ValueError:
        last = done.stderr.strip().rpartition("\n")[2]
        return Interpreter(path, trouble=last[:200] or f"ended with {done.returncode}")
    return Interpreter(path, str(python), str(version))


def judge_interpreter(there: Interpreter) -> Finding:
    """The interpreter of the jobs: it must have this very hpcrunner."""
    where, remedy = f"python {there.path}", "name one in the site's key python that has hpcrunner"
    if there.missing:
        return warning("python", "is not there; only nodes need it", where, remedy)
    if there.trouble:
        return fault("python", f"has no hpcrunner that starts ({there.trouble})", where, remedy)
    return ok("python", f"Python {there.python}, hpcrunner {there.hpcrunner}", where)


def judge_versions(there: Interpreter, here: str = __version__) -> Iterator[Finding]:
    """This hpcrunner, and the one of the jobs."""
    python = platform.python_version()
    yield ok("hpcrunner", f"hpcrunner {here} on Python {python}, {platform.platform(terse=True)}")
    if there.hpcrunner and there.hpcrunner != here:
        yield fault(
            "hpcrunner",
            f"jobs would run hpcrunner {there.hpcrunner}, and this is {here}",
            f"python {there.path}",
            "install the same version there, or correct the site's key python",
        )


def limits_here() -> LimitsHere:
    """The limits of this process, which a gateway started here would have."""

    def soft(which: int) -> int | None:
        value = resource.getrlimit(which)[0]
        return None if value == resource.RLIM_INFINITY else value

    return LimitsHere(
        cpu=soft(resource.RLIMIT_CPU),
        processes=soft(resource.RLIMIT_NPROC),
        files=soft(resource.RLIMIT_NOFILE),
        space=soft(resource.RLIMIT_AS),
    )


def judge_limits(limits: LimitsHere) -> Iterator[Finding]:
    """Login nodes kill what uses too much; a gateway runs for months."""
    where, quiet = "this host", True
    if limits.cpu is not None:
        quiet = False
        yield warning(
            "limits",
            f"a process is killed after {format_duration(limits.cpu)} of CPU time (ulimit -t)",
            where,
            "start the gateway from cron, so that it comes back, or on a host for services",
        )
    for value, least, what in (
        (limits.processes, _LEAST_PROCESSES, "processes (ulimit -u)"),
        (limits.files, _LEAST_FILES, "open files (ulimit -n)"),
    ):
        if value is not None and value < least:
            quiet = False
            yield warning(
                "limits", f"at most {value} {what}", where, f"raise it to {least} for the gateway"
            )
    if limits.space is not None and limits.space < _LEAST_SPACE:
        quiet = False
        yield warning(
            "limits",
            f"at most {format_bytes(limits.space)} of address space (ulimit -v)",
            where,
            f"raise it to {format_bytes(_LEAST_SPACE)} for the gateway",
        )
    if quiet:
        yield ok("limits", "no limit that a gateway would meet", where)


def session(edge: Edge) -> Session:
    """Ask systemd, where it is."""
    user = edge.environ.get("USER") or edge.first_line(["id", "-un"])
    linger = edge.first_line(["loginctl", "show-user", user, "--property=Linger", "--value"])
    path = "org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager"
    kill = edge.first_line(["busctl", "get-property", *path.split(), "KillUserProcesses"])
    return Session(
        {"yes": True, "no": False}.get(linger), {"b true": True, "b false": False}.get(kill)
    )


def judge_session(seen: Session) -> Finding:
    """Whether a gateway outlives its user's logout."""
    if seen.kills and not seen.lingers:
        return warning(
            "session",
            "whoever logs out loses his processes (systemd: KillUserProcesses, no linger)",
            "this host",
            "loginctl enable-linger, or start the gateway from cron (docs/operating.md)",
        )
    if seen.lingers is None and seen.kills is None:
        return not_tried("session", "no systemd here that says what it does at a logout")
    return ok("session", "a gateway outlives the logout", "this host")


def judge_environment(environ: Mapping[str, str], traps: Mapping[str, str]) -> Finding:
    """Variables that would bend commands and jobs. ``traps``: beginnings of names, and exceptions.

    None of them reaches a command or job: the finding is for those who wonder.
    """
    found = sorted(
        name
        for name in environ
        if any(name.startswith(trap) for trap in traps) and name not in traps.values()
    )
    if not found:
        return ok("environment", "holds nothing that would bend commands or jobs")
    shown = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
    return ok("environment", f"{shown}: kept from every command and job")


def judge_holder(spool: Path) -> Finding:
    """Who works on the spool; looks, and changes nothing."""
    holder = holder_of(spool / "gateway.lock")
    if holder is None:
        return ok("gateway", "none runs on this spool", f"spool {spool}")
    return ok("gateway", f"one runs on this spool ({holder})", f"spool {spool}")
