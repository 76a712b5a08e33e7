"""Which backend a site gets, and why."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.drmaa import DrmaaJob
from hpcrunner.batch.native import drmaa_job, sbatch_words
from hpcrunner.schedulers.backend import Backend
from hpcrunner.schedulers.contract import Scheduler, SchedulerUnavailable
from hpcrunner.schedulers.drmaa_session import ChildLost, DrmaaRefusal, DrmaaSession, Hello
from hpcrunner.schedulers.drmaa_submitter import DrmaaSubmitter
from hpcrunner.schedulers.gridengine.open import NAMES as GRID_ENGINES
from hpcrunner.schedulers.gridengine.open import gridengine_backend, gridengine_session
from hpcrunner.schedulers.local import LocalScheduler, Slots
from hpcrunner.schedulers.pyslurm_backend import open_pyslurm
from hpcrunner.schedulers.sbatch_submitter import SbatchSubmitter
from hpcrunner.schedulers.slurm import Slurm
from hpcrunner.schedulers.slurm_drm import slurm_drm
from hpcrunner.sites.directives import drmaa_refuses
from hpcrunner.sites.site import Site

log = logging.getLogger(__name__)

_HELLO_TIMEOUT = 30.0


class MasterAway(SchedulerUnavailable):
    """The library loads, but its DRM does not answer."""


def open_scheduler(site: Site, spool: Path) -> Scheduler:
    """The site's backend, open; the log says which and why. ``spool`` is the spool's folder.

    ``scheduler: auto`` takes DRMAA if its library loads and answers, else sbatch. Raises
    SchedulerUnavailable where ``scheduler: drmaa``, ``pyslurm`` or ``gridengine`` cannot be had.
    """
    if site.scheduler == "local":
        slots = _slots(site)
        log.info(
            "scheduler local: %d CPUs and %d GPUs of this machine", slots.cpus, len(slots.gpus)
        )
        return LocalScheduler(spool / "local", slots)
    library = library_of(site)
    if site.scheduler == "gridengine":
        return _gridengine(site, library)
    slurm = Slurm(accounting=site.accounting.mode != "none")
    _compare(site, slurm)
    if site.scheduler == "pyslurm":
        return open_pyslurm(site, slurm)
    if site.scheduler == "sbatch":
        log.info("scheduler sbatch: named by the site")
        return _sbatch(site, slurm)
    if site.scheduler == "auto" and (refused := _refused(site)):
        log.info("scheduler sbatch: DRMAA cannot carry the site's directives (%s)", refused)
        return _sbatch(site, slurm)
    session = DrmaaSession(library)
    try:
        hello = hello_of(session)
    except SchedulerUnavailable as error:
        session.close()
        if site.scheduler == "drmaa":
            raise
        log.info("scheduler sbatch: no DRMAA (%s)", error.what)
        return _sbatch(site, slurm)
    log.info("scheduler drmaa: %s, %s", hello.implementation, hello.drms)

    def job(batch: Batch) -> DrmaaJob:
        return drmaa_job(batch, site)

    submitter = DrmaaSubmitter(session, slurm_drm(job), timeout=slurm.patience.submit)
    return Backend(submitter, slurm)


def library_of(site: Site) -> str:
    """The DRMAA library that the site or DRMAA_LIBRARY_PATH names; empty: the system's own."""
    return site.drmaa.library or os.environ.get("DRMAA_LIBRARY_PATH", "")


def _gridengine(site: Site, library: str) -> Backend:
    session = gridengine_session(library)
    try:
        hello = hello_of(session, GRID_ENGINES)
    except MasterAway as error:
        # The library is there; submissions wait until the master is back.
        log.warning("%s", error)
    except SchedulerUnavailable:
        session.close()
        raise
    else:
        log.info("scheduler gridengine: %s", hello.drms)
    return gridengine_backend(site, session)


def _slots(site: Site) -> Slots:
    machine = site.local
    amd = machine.gpu_vendor == "amd"
    return Slots(
        machine.cpus,
        machine.memory,
        machine.gpus,
        "ROCR_VISIBLE_DEVICES" if amd else "CUDA_VISIBLE_DEVICES",
        site.kill_wait,
    )


def _sbatch(site: Site, slurm: Slurm) -> Backend:
    return Backend(SbatchSubmitter(slurm, lambda batch: sbatch_words(batch, site)), slurm)


def hello_of(session: DrmaaSession, names: tuple[str, ...] = ("SLURM",)) -> Hello:
    """What the library says of itself; ``names`` are those of the DRM it is to be of.

    Raises SchedulerUnavailable; MasterAway where only the DRM did not answer.
    """
    try:
        hello = session.hello(_HELLO_TIMEOUT)
    except (ChildLost, DrmaaRefusal) as error:
        if isinstance(error, DrmaaRefusal) and error.kind == "DrmCommunicationException":
            raise MasterAway(error.what, where="DRMAA", remedy="is the master up?") from error
        raise SchedulerUnavailable(
            error.what,
            where="DRMAA",
            remedy="name the library with the key drmaa.library or DRMAA_LIBRARY_PATH, and "
            "install hpcrunner[drmaa]",
        ) from error
    # Other DRMAs have DRMAA libraries too, but nobody here could look their jobs up.
    if not hello.drms.upper().startswith(names):
        of_slurm = names == ("SLURM",)
        raise SchedulerUnavailable(
            f"a library of {hello.drms or 'an unnamed DRM'}, not of "
            f"{'Slurm' if of_slurm else 'Grid Engine'}",
            where="DRMAA",
            remedy=f"name {'slurm-drmaa' if of_slurm else 'Grid Engine'}'s libdrmaa.so with the "
            "key drmaa.library",
        )
    return hello


def _compare(site: Site, slurm: Slurm) -> None:
    """Tell where the site's file and the cluster contradict each other."""
    try:
        config = slurm.config()
    except SchedulerUnavailable as error:
        log.warning("%s", error)
        return
    log.info("Slurm %s, cluster %s", config.version, config.cluster)
    if slurm.accounting and not config.accounting:
        log.warning(
            "site %s: the cluster keeps no accounts that sacct could read; set accounting.mode: "
            "none, or endings wait for it in vain",
            site.name,
        )
    if site.limits.max_array_tasks > 1 and site.limits.max_array_size > config.max_array_size:
        log.warning(
            "site %s: the cluster's MaxArraySize is %d; set limits.max_array_size to it, or large "
            "arrays are refused",
            site.name,
            config.max_array_size,
        )


def _refused(site: Site) -> str:
    words = [*site.directives, *(word for part in site.partitions for word in part.directives)]
    words += [word for rule in site.rules for word in rule.directives]
    return "; ".join(drmaa_refuses(words))
