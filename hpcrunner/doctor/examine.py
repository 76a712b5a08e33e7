"""The doctor's round: gather, judge, then send a probe. Each finding is told as soon as it is."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from hpcrunner.batch.container import exec_words
from hpcrunner.batch.script import check_templates
from hpcrunner.doctor import folders, login
from hpcrunner.doctor.brokers import judge_brokers
from hpcrunner.doctor.cluster import Cluster
from hpcrunner.doctor.edge import Edge
from hpcrunner.doctor.finding import Finding, fault, not_tried, of_error, ok, warning
from hpcrunner.doctor.gridengine import ask_cell
from hpcrunner.doctor.node import (
    CONTAINER_EXEC,
    CONTAINER_VERSION,
    STEP,
    judge_probe,
)
from hpcrunner.doctor.probe import Probe, cpu_spec, gpu_spec, probe_folder, run_probes
from hpcrunner.doctor.runtimes import judge_runtime
from hpcrunner.doctor.slurm.cluster import TRAPS
from hpcrunner.doctor.slurm.round import ask_cluster, serves
from hpcrunner.doctor.stores import judge_hosts, judge_stores, location
from hpcrunner.errors import HpcrunnerError
from hpcrunner.mounts import mount_of
from hpcrunner.queues.sources import QueueOptions
from hpcrunner.request.location import Location
from hpcrunner.request.probe import ProbeCommand, ProbeOrder, digest
from hpcrunner.request.redact import is_secret_variable
from hpcrunner.schedulers.choose import open_scheduler
from hpcrunner.sites.load import with_changes
from hpcrunner.sites.placement import NoFit
from hpcrunner.sites.site import Site
from hpcrunner.sites.spec import JobSpec

_SHORTEST = 8  # characters of a secret; shorter values are alike by chance


@dataclass(frozen=True, slots=True)
class Wishes:
    """What to look at beside the site: the gateway's queues, ``stores`` by address, an ``image``
    to run; ``wait`` is how long (s) a probe job may wait in the queue, ``job`` whether to send one.
    """

    queues: QueueOptions
    stores: tuple[str, ...] = ()
    image: str = ""
    wait: float = 120.0
    job: bool = True


@dataclass(slots=True)
class _Round:
    """What earlier checks found, for later ones."""

    site: Site
    wishes: Wishes
    edge: Edge
    tell: Callable[[str], None]
    spool_usable: bool = False
    skew: float = 0.0
    templates_good: bool = True
    stores: list[Location] = field(default_factory=list)
    cluster: Cluster = field(default_factory=Cluster)
    hosts: list[str] = field(default_factory=list)


def examine(
    site: Site, wishes: Wishes, edge: Edge, tell: Callable[[str], None] = lambda text: None
) -> Iterator[Finding]:
    """Everything, in the order of docs/doctor.md. ``tell`` hears what is waited for."""
    work = _Round(site, wishes, edge, tell)
    yield from _login(work)
    made = not site.spool_path.exists()
    try:
        yield from _spool(work)
        tell("the cluster")
        if serves(site):
            work.cluster = ask_cluster(site, edge)
        elif site.scheduler == "gridengine":
            work.cluster = ask_cell(site, edge)
        yield from work.cluster.findings
        tell("queues and stores")
        yield from judge_brokers(wishes.queues, edge.environ)
        yield from _stores(work)
        yield from _container(work)
        yield from _probe(work)
        path = site.spool_path
        yield folders.judge_shared(path, mount_of(path), work.hosts, socket.gethostname())
    finally:
        if made:  # and nothing but us was ever in it
            with suppress(OSError):
                site.spool_path.rmdir()


def _login(work: _Round) -> Iterator[Finding]:
    site, edge = work.site, work.edge
    try:
        check_templates(site)
    except HpcrunnerError as error:
        work.templates_good = False
        yield of_error("templates", error)
    else:
        yield ok("templates", f"site {site.name} and its template are sound")
    there = login.interpreter(site, edge)
    yield from login.judge_versions(there)
    yield login.judge_interpreter(there)
    yield from login.judge_limits(login.limits_here())
    yield login.judge_session(login.session(edge))
    yield login.judge_environment(edge.environ, TRAPS)


def _spool(work: _Round) -> Iterator[Finding]:
    path = work.site.spool_path
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        what = f"cannot be made ({error.strerror})"
        remedy = "name a folder of your own on the shared file system as spool"
        yield fault("spool", what, f"spool {path}", remedy)
        return
    facts = folders.folder_facts(path)
    work.spool_usable, work.skew = not facts.trouble and facts.mine, facts.skew
    yield from folders.judge_spool(facts)
    if work.spool_usable:
        yield folders.judge_skew(facts.skew, "this host's clock by the spool's file system")
        yield login.judge_holder(path)


def _stores(work: _Round) -> Iterator[Finding]:
    for address in work.wishes.stores:
        try:
            work.stores.append(location(address, work.site, work.edge.environ))
        except HpcrunnerError as error:
            yield fault("store", error.what, f"--store {address}", error.remedy)
    yield from judge_hosts(work.site)
    yield from judge_stores(work.site, work.stores)


def _container(work: _Round) -> Iterator[Finding]:
    container = work.site.container
    if container.runtime == "none":
        yield ok("container", "none: requests with an image are rejected")
        return
    program = container.program or container.runtime
    found = work.edge.find(program)
    version = work.edge.first_line([found, "--version"]) if found else ""
    missing = "is not there" if not found else "does not start"
    if version:
        yield from judge_runtime("container", version, work.site, found or "", runs_here=False)
    elif container.pull == "gateway":
        remedy = "images are pulled here (container.pull): give container.program"
        yield fault("container", f"{program} {missing}", "this host", remedy)
    else:
        remedy = "only nodes need it; else give container.program"
        yield warning("container", f"{program} {missing}", "this host", remedy)


def _probe(work: _Round) -> Iterator[Finding]:
    why = (
        "--no-job"
        if not work.wishes.job
        else "the spool cannot be used"
        if not work.spool_usable
        else work.cluster.hindered
    )
    if why:
        yield not_tried("probe", why)
        return
    changes, differs = dict(work.cluster.changes), list(work.cluster.differs)
    if not work.templates_good:
        changes["templates"] = None
        differs.append("with the shipped template")
    planted = f"HPCRUNNER_DOCTOR_{secrets.token_hex(8).upper()}"
    try:
        site = with_changes(work.site, changes) if changes else work.site
        probes = list(_probes(site, work, planted))
    except HpcrunnerError as error:
        yield of_error("probe", error)
        return
    with probe_folder(site.spool_path) as folder, _planted(planted):
        try:
            scheduler = open_scheduler(site, folder)
        except HpcrunnerError as error:
            yield of_error("probe", error)
            return
        try:
            seen = run_probes(
                probes,
                site,
                scheduler,
                folder,
                work.edge,
                wait=work.wishes.wait,
                tell=work.tell,
            )
        finally:
            scheduler.close()
    work.hosts += [one.report.host for one in seen if one.report is not None]
    differs = [f"by {scheduler.name}", *differs]
    told: set[tuple[str, str]] = set()
    for one in seen:
        for finding in judge_probe(one, site, work.skew, differs):
            # What both jobs saw is said once.
            if (finding.check, finding.what) not in told:
                told.add((finding.check, finding.what))
                yield finding


def _probes(site: Site, work: _Round, planted: str) -> Iterator[Probe]:
    """A job without GPUs where the site takes such, and one with where it has any.

    Raises NoFit where there is neither.
    """
    refused: NoFit | None = None
    whole = True  # the first one looks at everything
    try:
        spec = cpu_spec(site)
        yield Probe("cpu", spec, _order(site, work, planted, spec, whole=whole))
        whole = False
    except NoFit as error:
        refused = error
    if any(partition.gpus for partition in site.partitions):
        spec = gpu_spec(site)
        yield Probe("gpu", spec, _order(site, work, planted, spec, whole=whole))
    elif refused is not None:
        raise refused


def _order(site: Site, work: _Round, planted: str, spec: JobSpec, *, whole: bool) -> ProbeOrder:
    commands = list(_container_commands(site, spec, work.wishes.image))
    secrets_here = tuple(_secrets(site, work.edge.environ, planted))
    if not whole:
        return ProbeOrder(planted, (), tuple(commands), (), spec.cpus, spec.gpus, secrets_here)
    if work.cluster.step:
        commands.insert(0, ProbeCommand(STEP, work.cluster.step))
    writable = [("scratch", site.scratch), ("cache", site.cache)]
    stores = tuple(work.stores)
    if site.staging == "gateway":  # nodes see folders alone, and read and write there
        stores = tuple(store for store in stores if store.scheme == "file")
        writable.append(("staging_dir", site.staging_dir or str(site.spool_path / "staging")))
    return ProbeOrder(
        planted,
        tuple(writable),
        tuple(commands),
        stores,
        spec.cpus,
        spec.gpus,
        secrets_here,
    )


def _secrets(site: Site, environ: Mapping[str, str], planted: str) -> Iterator[tuple[str, str]]:
    """This session's secrets, but for what the site itself gives to its jobs."""
    for name, value in environ.items():
        if is_secret_variable(name) and len(value) >= _SHORTEST and name not in site.environment:
            yield name, digest(planted, value)


def _container_commands(site: Site, spec: JobSpec, image: str) -> Iterator[ProbeCommand]:
    container = site.container
    if container.runtime == "none":
        return
    program = container.program or container.runtime
    yield ProbeCommand(CONTAINER_VERSION, (program, "--version"))
    image = image or container.image or ""
    if image.startswith("/"):
        words = exec_words(container, spec)
        filled = tuple(image if word == "@IMAGE@" else word for word in words)
        yield ProbeCommand(CONTAINER_EXEC, (*filled, "true"))


@contextmanager
def _planted(name: str) -> Iterator[None]:
    """A variable in this process's own environment, which no job may see."""
    os.environ[name] = "planted by hpcrunner doctor"
    try:
        yield
    finally:
        del os.environ[name]
