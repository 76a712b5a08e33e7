"""The partitions and GPUs of the site's file against those that there are."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence

from hpcrunner.doctor.cards import memory_known
from hpcrunner.doctor.finding import Finding, fault, not_tried, ok, warning
from hpcrunner.doctor.slurm.facts import Facts
from hpcrunner.doctor.slurm.show import RealNode, RealPartition
from hpcrunner.request.units import format_bytes
from hpcrunner.sites.gpus import Gpu, constraint_of, joined_constraint
from hpcrunner.sites.parts import Partition
from hpcrunner.sites.site import Site

_SIMPLE = re.compile(r"[A-Za-z0-9_.:&-]*")


def judge_partitions(site: Site, facts: Facts) -> Iterator[Finding]:
    """A line for each thing that is not so, and one for each partition that is right."""
    if not (facts.has("partitions") and facts.has("nodes")):
        trouble = facts.troubles.get("partitions") or facts.troubles["nodes"]
        yield not_tried("partitions", trouble.what, trouble.where, trouble.remedy)
        return
    real = {partition.name: partition for partition in facts.partitions}
    if not site.partitions:
        yield from _default(facts)
    for number, partition in enumerate(site.partitions):
        where = _place(number, partition)
        there = real.get(partition.name)
        if there is None:
            near = difflib.get_close_matches(partition.name, real, n=1)
            hint = f"nearest: {near[0]}; " if near else ""
            yield fault(
                "partitions",
                "the cluster has no such partition",
                f"{where}.name",
                f"{hint}allowed: {', '.join(sorted(real)) or 'none that you see'}",
            )
            continue
        nodes = facts.nodes_of(partition.name)
        found = [
            *_state(there, nodes, where),
            *_sizes(partition, there, nodes, where),
            *_gpus(site, partition, nodes, where),
        ]
        yield from found
        if not found:
            yield ok("partitions", _summary(partition, nodes), where)


def _default(facts: Facts) -> Iterator[Finding]:
    default = next((p.name for p in facts.partitions if p.default), "")
    if default:
        yield ok("partitions", f"the site names none: jobs go to the default, {default}")
    else:
        yield fault(
            "partitions",
            "the site names none, and the cluster has no default partition",
            "partitions",
            f"name some of {', '.join(p.name for p in facts.partitions)} (hpcrunner site init)",
        )
    if any(node.gpus for node in facts.nodes):
        yield warning(
            "gpus",
            "the cluster has GPUs and the site names none: requests for GPUs are set aside",
            "partitions",
            "hpcrunner site init writes the partitions down",
        )


def _state(there: RealPartition, nodes: Sequence[RealNode], where: str) -> Iterator[Finding]:
    if not there.up:
        yield warning("partitions", "is not up: jobs wait until it is", where, "see sinfo")
    elif not nodes:
        yield fault("partitions", "has no nodes that you see", where, "take it out")
    elif not any(node.usable for node in nodes):
        yield warning("partitions", "none of its nodes is up now", where, "see sinfo -R")


def _sizes(
    partition: Partition, there: RealPartition, nodes: Sequence[RealNode], where: str
) -> Iterator[Finding]:
    if there.max_time is not None:
        real = clock(there.max_time)
        if partition.max_time is None:
            yield warning(
                "partitions",
                f"no limit is given, and Slurm's is {real}: longer requests wait in vain",
                f"{where}.max_time",
                f"max_time: {real}",
            )
        elif partition.max_time > there.max_time:
            yield fault(
                "partitions",
                f"{clock(partition.max_time)}, and Slurm allows {real}",
                f"{where}.max_time",
                f"max_time: {real}",
            )
    if not nodes:
        return
    cpus = max(node.cpus for node in nodes)
    cpus = min(cpus, there.max_cpus) if there.max_cpus else cpus
    if partition.max_cpus is not None and partition.max_cpus > cpus:
        yield fault(
            "partitions",
            f"{partition.max_cpus}, and its largest node gives {cpus}",
            f"{where}.max_cpus",
            f"max_cpus: {cpus}",
        )
    memory, who = max(node.memory for node in nodes), "its largest node has"
    if there.max_memory and there.max_memory < memory:
        memory, who = there.max_memory, "MaxMemPerNode is"
    # Where nobody told Slurm of any there is nothing to compare with.
    if memory and partition.max_memory is not None and partition.max_memory > memory:
        yield fault(
            "partitions",
            f"{_mib(partition.max_memory)}, and {who} {_mib(memory)}",
            f"{where}.max_memory",
            f"max_memory: {_mib(memory)}",
        )


def _gpus(
    site: Site, partition: Partition, nodes: Sequence[RealNode], where: str
) -> Iterator[Finding]:
    for number, gpu in enumerate(partition.gpus):
        most = most_of(site, partition, gpu, nodes)
        shards = max((n.shards for n in chosen(site, partition, gpu, nodes)), default=0)
        yield from _gpu(gpu, most, shards, nodes, f"{where}.gpus[{number}]")


def most_of(site: Site, partition: Partition, gpu: Gpu, nodes: Sequence[RealNode]) -> int:
    """How many of these GPUs one of the nodes has at most. A job that names no type gets any."""
    counts = (
        sum(count for kind, count in node.gpus if gpu.type in ("", kind))
        for node in chosen(site, partition, gpu, nodes)
    )
    return max(counts, default=0)


def _gpu(
    gpu: Gpu, most: int, shards: int, nodes: Sequence[RealNode], where: str
) -> Iterator[Finding]:
    types = sorted({kind for node in nodes for kind, _ in node.gpus})
    if not most:
        near = next((kind for kind in types if kind.lower() == gpu.type.lower()), "")
        hint = f"spelt {near}; " if near and near != gpu.type else ""
        some = ", ".join(kind or "GPUs without a type" for kind in types)
        beside = " with that constraint" if gpu.constraint and gpu.type in types else ""
        yield fault(
            "gpus",
            f"no node of the partition has {_name(gpu)}{beside}",
            f"{where}.type",
            f"{hint}its nodes have {some}" if types else "its nodes have no GPUs: take it out",
        )
        return
    if gpu.count > most:
        yield fault(
            "gpus",
            f"{gpu.count} of {_name(gpu)}, and no node has more than {most}",
            f"{where}.count",
            f"count: {most}",
        )
    if gpu.shards * most > shards:
        yield fault(
            "gpus",
            f"{gpu.shards} of each card, and no node has more than {shards} for {most}",
            f"{where}.shards",
            f"shards: {shards // most}",
        )
    known = memory_known(gpu.label)
    if known and gpu.memory > max(known) * (1 << 30):
        yield warning(
            "gpus",
            f"{format_bytes(gpu.memory)}, and such a card has at most {max(known)} GiB",
            f"{where}.memory",
            f"memory: {max(known)}G; see nvidia-smi on a node",
        )


def chosen(site: Site, partition: Partition, gpu: Gpu, nodes: Sequence[RealNode]) -> list[RealNode]:
    """The nodes that the constraint leaves, as far as it is a plain list of features."""
    words = joined_constraint((*site.directives, *partition.directives), gpu.constraint)
    constraint = constraint_of(words)
    if not constraint or not _SIMPLE.fullmatch(constraint):
        return list(nodes)
    return [node for node in nodes if set(constraint.split("&")) <= set(node.features)]


def _summary(partition: Partition, nodes: Sequence[RealNode]) -> str:
    gpus = ", ".join(f"{gpu.count} {gpu.label or 'GPUs'} a node" for gpu in partition.gpus)
    return f"{len(nodes)} node(s)" + (f", {gpus}" if gpus else "")


def _place(number: int, partition: Partition) -> str:
    return f"partitions[{number}] {partition.name}"


def _name(gpu: Gpu) -> str:
    return f"GPUs of type {gpu.type}" if gpu.type else "GPUs"


def clock(seconds: int) -> str:
    """As a site file has it."""
    hours, rest = divmod(seconds, 3600)
    days, hour = divmod(hours, 24)
    clock = f"{hour:02d}:{rest // 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def _mib(size: int) -> str:
    return f"{size >> 20}M"
