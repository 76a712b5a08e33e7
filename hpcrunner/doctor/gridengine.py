"""Grid Engine's part of the doctor's round: what qconf(1) says against the site's file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from hpcrunner.doctor.cluster import Cluster
from hpcrunner.doctor.edge import Edge
from hpcrunner.doctor.finding import Finding, fault, not_tried, of_error, ok, warning
from hpcrunner.errors import HpcrunnerError
from hpcrunner.schedulers.choose import hello_of, library_of
from hpcrunner.schedulers.command import CommandFailed
from hpcrunner.schedulers.contract import SchedulerUnavailable
from hpcrunner.schedulers.gridengine import qacct
from hpcrunner.schedulers.gridengine.environment import query_environment
from hpcrunner.schedulers.gridengine.open import NAMES, gridengine_session
from hpcrunner.sites.site import Site
from hpcrunner.sites.slurmtime import parse_time

_COMMANDS = ("qstat", "qdel", "qacct", "qconf")
# What qconf says where it has no master; of a thing that is not there it says other words.
_AWAY = re.compile(r"commlib error|unable to (send|contact)|variable SGE_ROOT|can't connect")
_HOSTS = re.compile(r"[,\[].*|@.*")


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell as it says. ``queues`` and ``environments`` by name with their settings, as far as
    the site's file names them; ``resources`` by name and shortcut: (requestable, consumable).
    ``unheard``, ``reschedule``: max_unheard and reschedule_unknown in seconds.
    """

    version: str = ""
    queues: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    queue_names: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    projects: tuple[str, ...] = ()
    resources: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    most_tasks: int = 0
    unheard: int | None = None
    reschedule: int | None = None


def ask_cell(site: Site, edge: Edge) -> Cluster:
    """Ask the master everything, and judge."""
    missing = [name for name in _COMMANDS if not edge.find(name)]
    if missing:
        remedy = "read the cell's settings.sh, here and where the gateway is started"
        found = fault("commands", f"no {', '.join(missing)}", "PATH", remedy)
        return Cluster((found,), "the cluster cannot be asked")
    try:
        cell = _cell(site, edge)
    except SchedulerUnavailable as error:
        return Cluster((of_error("controller", error),), "the cluster does not answer")
    findings = [
        ok("controller", f"{cell.version or 'Grid Engine'} answers"),
        *judge_queues(site, cell),
        *judge_resources(site, cell),
        *judge_environment(site, cell),
        *judge_projects(site, cell),
        *judge_arrays(site, cell),
        judge_hosts(site, cell),
        judge_accounting(site, _accounting(edge)),
        judge_library(site),
    ]
    return Cluster(tuple(findings))


def judge_queues(site: Site, cell: Cell) -> Iterator[Finding]:
    """The partitions, where their names are those of queues."""
    if not site.gridengine.queue_named:
        yield not_tried("partitions", "queues are not named here (gridengine.queue_named)")
        return
    for number, partition in enumerate(site.partitions):
        where, name = f"partitions[{number}] {partition.name}", _queue(partition.name)
        if name not in cell.queue_names:
            known = ", ".join(cell.queue_names)
            what = "the cluster has no such queue"
            yield fault("partitions", what, f"{where}.name", f"allowed: {known}")
            continue
        settings = cell.queues.get(name, {})
        most, wait = _seconds(settings.get("h_rt", "")), _seconds(settings.get("notify", ""))
        if most is not None and (partition.max_time is None or partition.max_time > most):
            yield fault(
                "partitions",
                f"longer than the queue's h_rt, {settings['h_rt']}",
                f"{where}.max_time",
                f"max_time: {settings['h_rt']}",
            )
        else:
            yield ok("partitions", f"queue {name}", where)
        if wait is not None and site.kill_wait > wait:
            yield fault(
                "kill_wait",
                f"{site.kill_wait:g} s, and the queue {name} kills {wait} s after its notice: jobs "
                "would be killed while they save",
                "kill_wait",
                f"kill_wait: {wait}",
            )


def judge_resources(site: Site, cell: Cell) -> Iterator[Finding]:
    """The resources that jobs ask for: they are there, may be asked for, and count as said."""
    own = site.gridengine
    gpus = [gpu for partition in site.partitions for gpu in partition.gpus]
    wanted: list[tuple[str, str, str]] = [
        (name, "memory_resources", own.memory_per) for name in own.memory_resources
    ]
    if gpus:
        wanted.append((own.gpu_resource, "gpu_resource", own.gpus_per))
    if own.gpu_type_resource and any(gpu.type for gpu in gpus):
        wanted.append((own.gpu_type_resource, "gpu_type_resource", ""))
    if own.tmp_resource and site.tmp:
        wanted.append((own.tmp_resource, "tmp_resource", ""))
    good = []
    for name, key, per in wanted:
        where = f"gridengine.{key}"
        requestable, consumable = cell.resources.get(name, ("", ""))
        if not requestable:
            yield fault("resources", f"the cluster has no resource {name}", where, "see qconf -sc")
        elif requestable == "NO":
            yield fault("resources", f"{name} may not be asked for", where, "see qconf -sc")
        elif (per, consumable) in (("slot", "JOB"), ("job", "YES")):
            real = "job" if consumable == "JOB" else "slot"
            what = f"{name} counts for each {real}, not for each {per}"
            remedy = f"gridengine.{'memory' if key.startswith('memory') else 'gpus'}_per: {real}"
            yield fault("resources", what, where, remedy)
        else:
            good.append(name)
    if good:
        yield ok("resources", ", ".join(good))


def judge_environment(site: Site, cell: Cell) -> Iterator[Finding]:
    """The parallel environment of jobs with several CPUs."""
    name, where = site.gridengine.parallel_environment, "gridengine.parallel_environment"
    rule = cell.environment.get("allocation_rule", "")
    if name not in cell.environments:
        known = ", ".join(cell.environments) or "none"
        yield fault("cpus", f"no parallel environment {name}", where, f"allowed: {known}")
    elif rule != "$pe_slots":
        remedy = "name one with the rule $pe_slots (qconf -sp NAME)"
        yield fault("cpus", f"{name} has the rule {rule}: slots on several hosts", where, remedy)
    else:
        yield ok("cpus", f"several by {name}")


def judge_projects(site: Site, cell: Cell) -> Iterator[Finding]:
    """The projects that jobs are charged to."""
    named = [(site.account, "account")]
    named += [
        (p.account, f"partitions[{n}] {p.name}.account") for n, p in enumerate(site.partitions)
    ]
    named += [(r.account, f"rules[{n}] {r.name}.account") for n, r in enumerate(site.rules)]
    for project, where in named:
        if project and project not in cell.projects:
            known = ", ".join(cell.projects) or "none"
            yield fault("account", f"no project {project}", where, f"allowed: {known}")


def judge_arrays(site: Site, cell: Cell) -> Iterator[Finding]:
    """The largest array."""
    most = cell.most_tasks
    if most and site.limits.largest_array > most:
        yield fault(
            "arrays",
            f"arrays of {site.limits.largest_array} tasks, and max_aj_tasks is {most}",
            "limits.max_array_tasks",
            f"max_array_tasks: {most}",
        )
    else:
        yield ok("arrays", f"up to {site.limits.largest_array} tasks")


def judge_hosts(site: Site, cell: Cell) -> Finding:
    """What the master makes of a host that dies. Nothing of it is wrong; it is good to know."""
    if cell.unheard is None:
        return not_tried("hosts", "the cell does not tell its max_unheard")
    silent = f"one that is silent for {cell.unheard} s is unknown (max_unheard)"
    if not cell.reschedule:
        then = "its jobs are shown as running until it is back (reschedule_unknown is 0)"
    else:
        jobs = "its jobs wait again" if site.requeue else "with requeue: true its jobs wait again"
        then = f"{jobs} {cell.reschedule} s later (reschedule_unknown)"
    return ok("hosts", f"{silent}; {then}")


def judge_accounting(site: Site, trouble: str) -> Finding:
    """``trouble`` is why qacct does not answer, empty where it does."""
    if site.accounting.mode == "none":
        if trouble:
            return ok("accounting", "none: endings come from the jobs' own records")
        return warning(
            "accounting",
            "none, and qacct answers",
            "accounting.mode",
            "mode: qacct, so that endings are looked up there",
        )
    if trouble:
        remedy = "can this host read the accounting file? Else accounting.mode: none"
        return fault("accounting", f"does not answer: {trouble}", "qacct", remedy)
    return ok("accounting", "qacct answers")


def judge_library(site: Site) -> Finding:
    """Load the library as the gateway would, and ask it what it is."""
    path = library_of(site)
    session = gridengine_session(path)
    try:
        answer = hello_of(session, NAMES)
    except HpcrunnerError as error:
        return fault("drmaa", error.what, f"DRMAA {path or 'of the system'}", error.remedy)
    finally:
        session.close()
    return ok("drmaa", f"{answer.implementation} of {answer.drms}", f"DRMAA {path}")


def _cell(site: Site, edge: Edge) -> Cell:
    environment = query_environment(edge.environ)

    def ask(*words: str) -> str:
        try:
            done = edge.ask(["qconf", *words], environment)
        except CommandFailed as error:
            raise SchedulerUnavailable(error.what, where="qconf", remedy=error.remedy) from error
        text = f"{done.stdout}{done.stderr}"
        if done.returncode and re.search(
            r"commlib error|unable to (send|contact)|can't connect", text
        ):
            why = text.strip().partition("\n")[0][:200]
            raise SchedulerUnavailable(
                f"failed ({why})", where="qconf", remedy="is the master up? Is SGE_ROOT set?"
            )
        return "" if done.returncode else done.stdout

    names = tuple(ask("-sql").split())
    wanted = {_queue(partition.name) for partition in site.partitions} & set(names)
    cluster = settings(ask("-sconf"))
    return Cell(
        version=edge.ask(["qstat", "-help"], environment).stdout.partition("\n")[0].strip(),
        queues={name: settings(ask("-sq", name)) for name in sorted(wanted)},
        queue_names=names,
        environments=tuple(ask("-spl").split()),
        environment=settings(ask("-sp", site.gridengine.parallel_environment)),
        projects=tuple(ask("-sprjl").split()),
        resources=resources(ask("-sc")),
        most_tasks=int(cluster.get("max_aj_tasks", "0") or 0),
        unheard=_seconds(cluster.get("max_unheard", "")),
        reschedule=_seconds(cluster.get("reschedule_unknown", "")),
    )


def settings(text: str) -> dict[str, str]:
    """``name value`` lines of qconf; a backslash goes on with the next line."""
    lines = text.replace("\\\n", " ").splitlines()
    pairs = (line.split(None, 1) for line in lines if line.strip() and not line.startswith("#"))
    return {pair[0]: pair[1].strip() if len(pair) > 1 else "" for pair in pairs}


def resources(text: str) -> dict[str, tuple[str, str]]:
    """The table of ``qconf -sc``."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 8 and not line.startswith("#"):
            found[words[0]] = found[words[1]] = (words[4], words[5])
    return found


def _accounting(edge: Edge) -> str:
    user = edge.environ.get("USER") or edge.first_line(["id", "-un"])
    argv = qacct.argv(user, edge.clock())
    try:
        qacct.parse(edge.ask(argv, query_environment(edge.environ)))
    except (SchedulerUnavailable, CommandFailed) as error:
        return error.what
    return ""


def _queue(name: str) -> str:
    """The queue of ``all.q``, ``all.q@host`` or ``all.q@@hosts``."""
    return _HOSTS.sub("", name)


def _seconds(text: str) -> int | None:
    """``24:00:00``, with brackets for single hosts after it; None for INFINITY and the like."""
    plain = _HOSTS.sub("", text)
    try:
        return parse_time(plain) if re.fullmatch(r"\d+:\d+:\d+", plain) else None
    except ValueError:
        return None
