"""The kinds of nodes that a partition has, as entries of a first site file. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hpcrunner.doctor.slurm.facts import Facts
from hpcrunner.doctor.slurm.show import RealNode, RealPartition
from hpcrunner.sites.values import is_gpu_type, is_slurm_name


@dataclass(frozen=True, slots=True)
class Kind:
    """Nodes of one partition with the same GPUs; ``gpu`` is a type and how many, None for none.

    ``cpus`` and ``memory`` are those of most of them, memory 0 where nobody says; ``others`` tells
    of the rest, for people.
    ``features`` are those that all of them have.
    """

    partition: RealPartition
    nodes: int
    cpus: int
    memory: int
    gpu: tuple[str, int] | None = None
    others: tuple[str, ...] = ()
    features: tuple[str, ...] = ()


def kinds(facts: Facts) -> list[Kind]:
    """An entry for each kind: those without GPUs first, the default partition before all."""
    found = [
        kind
        for partition in facts.partitions
        if not why_not(partition, facts)
        for kind in _of(partition, facts.nodes_of(partition.name))
    ]
    return sorted(found, key=lambda kind: (kind.gpu is not None, not kind.partition.default))


def why_not(partition: RealPartition, facts: Facts) -> str:
    """Why a partition is left out of a first site file; empty where it is not."""
    if not is_slurm_name(partition.name):
        return "a name that no site file can have"
    if not partition.up:
        return "not up"
    if partition.root_only:
        return "for root alone"
    if not facts.nodes_of(partition.name):
        return "no nodes that you see"
    if partition.min_nodes > 1:
        return f"for jobs of {partition.min_nodes} nodes and more"
    groups = partition.allow_groups
    if groups and facts.groups and not set(groups) & set(facts.groups):
        return f"for the groups {', '.join(groups)}"
    mine = {row.account for row in facts.associations}
    if mine and partition.allow_accounts and not mine & set(partition.allow_accounts):
        return f"for the accounts {', '.join(partition.allow_accounts)}"
    if mine and mine <= set(partition.deny_accounts):
        return "not for your accounts"
    return ""


def _of(partition: RealPartition, nodes: Sequence[RealNode]) -> Iterator[Kind]:
    gpus = {kind for node in nodes for kind, _ in node.gpus if is_gpu_type(kind)}
    plain = [node for node in nodes if not node.gpus]
    if plain:
        yield _kind(partition, plain, None)
    for gpu in sorted(gpus):
        yield _kind(partition, [n for n in nodes if gpu in dict(n.gpus)], gpu)


def _kind(partition: RealPartition, nodes: Sequence[RealNode], gpu: str | None) -> Kind:
    shapes = Counter((n.cpus, n.memory, dict(n.gpus).get(gpu or "", 0)) for n in nodes)
    # Of two that are as many the larger. One that never came up may say nothing of itself.
    usual = max(shapes, key=lambda shape: (shape[1] > 0, shapes[shape], shape))
    cpus, memory, count = usual
    if partition.max_cpus:
        cpus = min(cpus, partition.max_cpus)
    if partition.max_memory:
        memory = min(memory, partition.max_memory)
    others = tuple(
        f"{number} more with {shape[0]} CPUs, "
        + (f"{shape[1] >> 20}M" if shape[1] else "of unknown memory")
        + (f" and {shape[2]} GPUs" if shape[2] else "")
        for shape, number in sorted(shapes.items(), reverse=True)
        if shape != usual
    )
    common = set(nodes[0].features).intersection(*(node.features for node in nodes))
    return Kind(
        partition,
        len(nodes),
        cpus,
        memory,
        None if gpu is None else (gpu, count),
        others,
        tuple(sorted(common)),
    )
