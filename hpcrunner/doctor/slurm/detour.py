"""What of a site no job can be submitted by, so that the probe job goes round it."""

from __future__ import annotations

from typing import Any

from hpcrunner.doctor.slurm.facts import Facts
from hpcrunner.doctor.slurm.partitions import most_of
from hpcrunner.sites.parts import Partition
from hpcrunner.sites.site import Site


def detour(site: Site, facts: Facts, *, backend: bool) -> tuple[dict[str, Any], list[str]]:
    """The keys to change, and each change in words. ``backend``: the site's own can be had."""
    changes: dict[str, Any] = {}
    differs: list[str] = []
    mine = {row.account for row in facts.associations}
    if site.account and mine and site.account.lower() not in mine:
        changes["account"] = None
        differs.append(f"without the account {site.account}")
    kept = tuple(part for p in site.partitions if (part := _passable(site, p, facts)) is not None)
    if kept != site.partitions:
        changes["partitions"] = kept
        changes["rules"] = ()  # they may name what is left out, and a probe is nobody's
        names = {p.name for p in kept}
        gone = [p.name for p in site.partitions if p.name not in names]
        differs.append(
            f"without the partition(s) {', '.join(gone)}" if gone else "without some GPUs"
        )
    if not backend:
        changes["scheduler"] = "sbatch"
        differs.append("through sbatch")
    return changes, differs


def _passable(site: Site, partition: Partition, facts: Facts) -> Partition | None:
    """The partition with the GPUs that it has; None where no job can be submitted there: no such
    partition, or an account that is not the user's.
    """
    if not (facts.has("partitions") and facts.has("nodes")):
        return partition
    mine = {row.account for row in facts.associations}
    stranger = bool(partition.account and mine and partition.account.lower() not in mine)
    if stranger or partition.name not in {p.name for p in facts.partitions}:
        return None
    nodes = facts.nodes_of(partition.name)
    there = tuple(gpu for gpu in partition.gpus if most_of(site, partition, gpu, nodes))
    if partition.gpus_only and not there:
        return None
    return partition.model_copy(update={"gpus": there})
