"""What of a site no job can be submitted by, so that the probe job goes round it."""

from __future__ import annotations

from typing import Any

from hpcrunner.doctor.slurm.facts import Facts
from hpcrunner.doctor.slurm.library import Library
from hpcrunner.sites.parts import Partition
from hpcrunner.sites.site import Site


def detour(site: Site, facts: Facts, library: Library | None) -> tuple[dict[str, Any], list[str]]:
    """The keys to change, and each change in words."""
    changes: dict[str, Any] = {}
    differs: list[str] = []
    mine = {row.account for row in facts.associations}
    if site.account and mine and site.account.lower() not in mine:
        changes["account"] = None
        differs.append(f"without the account {site.account}")
    kept = tuple(p for p in site.partitions if not _hopeless(p, facts))
    if len(kept) < len(site.partitions):
        changes["partitions"] = kept
        gone = [p.name for p in site.partitions if p not in kept]
        differs.append(f"without the partition(s) {', '.join(gone)}")
    if library is not None and library.answer is None and site.scheduler == "drmaa":
        changes["scheduler"] = "sbatch"
        differs.append("through sbatch")
    return changes, differs


def _hopeless(partition: Partition, facts: Facts) -> bool:
    """Whether no job can be submitted there: no such partition, or an account not the user's."""
    if not facts.has("partitions"):
        return False
    mine = {row.account for row in facts.associations}
    stranger = bool(partition.account and mine and partition.account.lower() not in mine)
    return stranger or partition.name not in {p.name for p in facts.partitions}
