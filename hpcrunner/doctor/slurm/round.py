"""Slurm's part of the doctor's round."""

from __future__ import annotations

from hpcrunner.doctor.cluster import Cluster
from hpcrunner.doctor.edge import Edge
from hpcrunner.doctor.finding import Verdict
from hpcrunner.doctor.slurm.accounts import judge_accounts
from hpcrunner.doctor.slurm.cluster import (
    judge_accounting,
    judge_clock,
    judge_commands,
    judge_limits,
)
from hpcrunner.doctor.slurm.detour import detour
from hpcrunner.doctor.slurm.facts import ask_all
from hpcrunner.doctor.slurm.library import judge_backend
from hpcrunner.doctor.slurm.partitions import judge_partitions
from hpcrunner.sites.site import Site

# A step inside a job, with nothing but what the job's own environment says.
_STEP = ("srun", "--ntasks=1", "true")
_SCHEDULERS = ("auto", "drmaa", "sbatch", "pyslurm")


def serves(site: Site) -> bool:
    """Whether the site's jobs go to Slurm."""
    return site.scheduler in _SCHEDULERS


def ask_cluster(site: Site, edge: Edge) -> Cluster:
    """Ask Slurm everything, and judge."""
    facts = ask_all(edge)
    findings = [
        *judge_commands(site, facts),
        judge_clock(facts),
        *judge_limits(site, facts),
        judge_accounting(site, facts),
        *judge_accounts(site, facts),
        *judge_partitions(site, facts),
    ]
    backend = judge_backend(site, facts.config.version)
    findings.append(backend)
    lost = site.scheduler != "auto" and backend.verdict is Verdict.FAULT
    changes, differs = detour(site, facts, backend=not lost)
    hindered = "" if facts.has("settings") else "the cluster does not answer"
    return Cluster(tuple(findings), hindered, changes, differs, _STEP)
