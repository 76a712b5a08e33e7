"""The library that jobs are submitted by: whether it loads, answers, and is of this Slurm."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hpcrunner.batch.pyslurm import pyslurm_refuses
from hpcrunner.doctor.finding import Finding, fault, of_error, ok, warning
from hpcrunner.errors import HpcrunnerError
from hpcrunner.schedulers.choose import hello_of, library_of
from hpcrunner.schedulers.drmaa_session import DrmaaSession, Hello
from hpcrunner.schedulers.pyslurm_backend import open_pyslurm
from hpcrunner.schedulers.slurm import Slurm
from hpcrunner.sites.directives import drmaa_refuses
from hpcrunner.sites.site import Site


@dataclass(frozen=True, slots=True)
class Library:
    """A library as it answered in a child process; ``path`` is empty for the system's own."""

    path: str
    named: bool
    answer: Hello | None = None
    trouble: str = ""


def library(site: Site) -> Library:
    """Load the library as the gateway would, and ask it what it is."""
    named = library_of(site)
    if named and not Path(named).exists():
        return Library(named, True, trouble="no such file")
    session = DrmaaSession(named)
    try:
        return Library(named, bool(named), hello_of(session))
    except HpcrunnerError as error:
        return Library(named, bool(named), trouble=error.what)
    finally:
        session.close()


def judge_backend(site: Site, slurm: str) -> Finding:
    """What jobs are submitted by; ``slurm`` is the controller's version."""
    if site.scheduler == "pyslurm":
        try:
            open_pyslurm(site, Slurm()).close()
        except HpcrunnerError as error:
            return of_error("pyslurm", error)
        words = [*site.directives]
        words += [word for part in site.partitions for word in part.directives]
        words += [word for rule in site.rules for word in rule.directives]
        if refused := pyslurm_refuses(words):
            text = f"cannot carry {'; '.join(refused)}: such jobs would be refused"
            return fault("pyslurm", text, "directives", "take them out, or set scheduler: sbatch")
        return ok("pyslurm", "loads, and fits the cluster's Slurm")
    if site.scheduler == "sbatch":
        return ok("drmaa", "not wanted: jobs go through sbatch")
    return judge_library(site, library(site), slurm)


def judge_library(site: Site, found: Library, slurm: str) -> Finding:
    """The library that the site wants; ``slurm`` is the controller's version."""
    where = f"DRMAA {found.path or 'of the system'}"
    remedy = "name slurm-drmaa's libdrmaa.so with drmaa.library or DRMAA_LIBRARY_PATH, and "
    remedy += "install hpcrunner[drmaa]"
    answer = found.answer
    if answer is None:
        if site.scheduler == "drmaa" or found.named:
            return fault("drmaa", found.trouble, where, remedy)
        return ok("drmaa", f"none ({found.trouble}): jobs go through sbatch")
    theirs = re.search(r"\d+\.\d+", answer.drms)
    if theirs and slurm and not slurm.startswith(theirs[0]):
        return fault(
            "drmaa",
            f"was built for {answer.drms}, and the controller is {slurm}",
            where,
            "build slurm-drmaa against this Slurm",
        )
    if not theirs:
        return warning("drmaa", f"loads, and tells no version ({answer.drms})", where)
    words = [*site.directives, *(word for part in site.partitions for word in part.directives)]
    refused = "; ".join(drmaa_refuses(words))
    if site.scheduler == "auto" and refused:
        return ok("drmaa", f"answers, and cannot carry {refused}: jobs go through sbatch", where)
    return ok("drmaa", f"{answer.implementation} of {answer.drms}", where)
