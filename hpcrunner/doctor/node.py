"""What a probe job saw, judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hpcrunner import __version__
from hpcrunner.doctor.finding import Finding, fault, ok, warning
from hpcrunner.doctor.folders import judge_skew
from hpcrunner.doctor.probe import Seen
from hpcrunner.doctor.runtimes import judge_runtime
from hpcrunner.doctor.stores import shown
from hpcrunner.request.probe import CommandSeen, FolderSeen, ProbeReport
from hpcrunner.request.units import format_bytes
from hpcrunner.sites.site import Site

STEP, CONTAINER_VERSION, CONTAINER_EXEC = "step", "container version", "container exec"
_LEAST_FREE = 1 << 30
_LATE = 15.0  # seconds


def judge_probe(seen: Seen, site: Site, login_skew: float, differs: Sequence[str]) -> list[Finding]:
    """All that one probe tells. ``login_skew`` is this host's clock less the file system's (s)."""
    found = [judge_run(seen, differs)]
    report = seen.report
    if report is None:
        return found
    where = f"node {seen.node}"
    found += judge_versions(report, where)
    found += judge_leak(report, where)
    found += (judge_folder(folder, where) for folder in report.folders)
    found += (f for command in report.commands for f in judge_command(command, site, where))
    found += judge_gpus(seen, report, site, where)
    for store in report.stores:
        found.append(
            fault(
                "node.store",
                f"not reached from the node ({store.trouble})",
                f"{where}: {shown(store.address)}",
                "jobs fetch and save there: see the node's network, proxy and the key s3.ca",
            )
            if store.trouble
            else ok("node.store", "reached", f"{where}: {shown(store.address)}")
        )
    found += judge_times(seen, report, site, login_skew, where)
    return found


def judge_run(seen: Seen, differs: Sequence[str] = ()) -> Finding:
    """Whether the job ran at all."""
    job = f"{seen.probe.name} job {seen.job}".strip()
    spec = seen.probe.spec
    where = f"{job} in {spec.partition}" if spec.partition else job
    if seen.queued:
        return warning(
            "probe", seen.trouble, where, "the queue is long: give it more time with --wait"
        )
    if seen.report is None:
        return fault("probe", seen.trouble, where, "mend what is named above first, then this")
    told = f"on {seen.node}, reported after {seen.seconds:.1f} s"
    return ok("probe", "; ".join([told, *differs]), where)


def judge_versions(report: ProbeReport, where: str) -> Iterator[Finding]:
    """The hpcrunner that jobs get."""
    if report.hpcrunner != __version__:
        yield fault(
            "node.python",
            f"runs hpcrunner {report.hpcrunner} ({report.executable}), and this is {__version__}",
            where,
            "install the same version there, or correct the site's key python",
        )
    else:
        yield ok("node.python", f"hpcrunner {report.hpcrunner} on Python {report.python}", where)


def judge_leak(report: ProbeReport, where: str) -> Iterator[Finding]:
    """The variable that was planted here must not be there, and no secret of this session."""
    if report.leaked:
        yield fault(
            "node.environment",
            "a variable of this login session reached the job",
            where,
            "a wrapper of the scheduler's commands, or a plugin of it, hands the environment on: "
            "tell the administrators, and start the gateway from a clean environment (env -i)",
        )
    if report.secrets:
        yield warning(
            "node.environment",
            f"{', '.join(report.secrets)} of this login session has the same value in the job, "
            "where every payload can read it",
            where,
            "it comes with a file that both read, or from the scheduler: take it out of your "
            "shell's start files, and of what the site's prologue reads",
        )
    if not report.leaked and not report.secrets:
        yield ok("node.environment", "nothing of this session reached the job", where)


def judge_folder(seen: FolderSeen, where: str) -> Finding:
    """Scratch and cache."""
    check, place = f"node.{seen.name}", f"{where}: {seen.path}"
    if seen.trouble:
        return fault(
            check,
            f"cannot be written ({seen.trouble})",
            place,
            f"name another folder in the site's key {seen.name}",
        )
    if seen.free < _LEAST_FREE:
        return warning(check, f"only {format_bytes(seen.free)} free", place, "make room or quota")
    on = f", on {seen.file_system}" if seen.file_system else ""
    return ok(check, f"writable, {format_bytes(seen.free)} free{on}", place)


def judge_command(seen: CommandSeen, site: Site, where: str) -> Iterator[Finding]:
    """A step of the scheduler's, and containers."""
    why = seen.line or f"ended with {seen.code}"
    if seen.name == STEP:
        if seen.code == 0:
            yield ok("node.steps", "a step runs inside the job", where)
        else:
            yield warning(
                "node.steps",
                f"a step does not run inside the job ({why})",
                where,
                "payloads that start steps will fail: ask the administrators",
            )
        return
    runtime = site.container.program or site.container.runtime
    if seen.name == CONTAINER_VERSION:
        if seen.code == 0:
            yield from judge_runtime("node.container", seen.line, site, where, runs_here=True)
        else:
            yield fault(
                "node.container",
                f"{runtime} does not start ({why})",
                where,
                "load its module with the key modules, give its path with container.program, or "
                "set container.runtime: none",
            )
    elif seen.code == 0:
        yield ok("node.container", "the image runs", where)
    else:
        yield fault(
            "node.container", f"the image does not run ({why})", where, "see docs/containers.md"
        )


def judge_gpus(seen: Seen, report: ProbeReport, site: Site, where: str) -> Iterator[Finding]:
    """The devices of a job that asked for some."""
    spec = seen.probe.spec
    if not spec.gpus or spec.gpu_shards:
        return
    kind = spec.gpu_type or "GPU"
    given = ", ".join(report.devices)
    if len(report.devices) == spec.gpus:
        yield ok("node.gpus", f"{spec.gpus} {kind} given: device {given}", where)
    elif not given and site.scheduler == "gridengine":
        yield warning(
            "node.gpus",
            f"{spec.gpus} {kind} given, and nobody says which: payloads see all of the node's",
            where,
            "ask the administrators for a prolog that sets CUDA_VISIBLE_DEVICES",
        )
    else:
        yield fault(
            "node.gpus",
            f"{spec.gpus} {kind} asked for, devices given: {given or 'none named'}",
            where,
            "ask the administrators how devices are handed out, and see the key gpu_syntax",
        )


def judge_times(
    seen: Seen, report: ProbeReport, site: Site, login_skew: float, where: str
) -> Iterator[Finding]:
    """The node's clock, and how late its files show here."""
    apart = report.skew - login_skew
    clock = judge_skew(apart, f"{where}: its clock by this host's")
    yield Finding("node.clock", clock.verdict, clock.what, clock.where, clock.remedy)
    # The node's times are told by its own clock.
    lag = max(seen.seen_at - (report.written_at - apart), 0.0)
    told = f"the node's report showed here after {lag:.1f} s"
    if lag > site.record_wait:
        yield fault(
            "record",
            told,
            where,
            f"endings would be judged without records: record_wait: {2 * lag:.0f}",
        )
    elif lag > _LATE:
        yield warning("record", told, where, "mount the spool with shorter attribute caching")
    else:
        yield ok("record", told, where)
