"""Slurm's part of the doctor's round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hpcrunner.doctor.edge import Edge
from hpcrunner.doctor.finding import Finding, Verdict
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
STEP = ("srun", "--ntasks=1", "true")
_SCHEDULERS = ("auto", "drmaa", "sbatch", "pyslurm")


@dataclass(frozen=True, slots=True)
class Cluster:
    """The judgements; ``hindered`` is why no job can be submitted, empty where one can.

    ``changes`` and ``differs``: how the probe goes round what is wrong.
    """

    findings: tuple[Finding, ...]
    hindered: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    differs: list[str] = field(default_factory=list)


def serves(site: Site) -> bool:
    """Whether the site's jobs go to Slurm."""
    return site.scheduler in _SCHEDULERS


def ask_cluster(site: Site, edge: Edge, tell: Callable[[str], None]) -> Cluster:
    """Ask Slurm everything, and judge."""
    tell("the cluster")
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
    return Cluster(tuple(findings), hindered, changes, differs)
