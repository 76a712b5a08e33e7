"""Which partition and GPU type a request gets, and with what limits: request → JobSpec.

The rule, in full:

1. Without GPUs, partitions are tried in the order of the site file; the first that can hold the
   whole request gets it. ``gpus_only`` partitions are passed over. A partition without that mark
   takes any request that fits, so the file's order is the policy.
2. With GPUs, what is asked for is read as ``gpus.meaning`` says (sites/gpus.py). Of all types in
   all partitions that can hold the whole request, the one that wastes least is taken: the fewest
   slots beyond those asked for, then the fewest cards, then the least GPU memory that suffices
   (sites/gpu_choice.py). Without ``gpuMem`` that is the smallest card there is, and the large
   ones stay free for those who need them. Among equals the file's order decides, of partitions
   and of types within one. With ``gpus.choice: file-order`` the first partition that can hold
   the request gets it, and only within it the least waste counts. Where nothing asks for any
   time, a partition that allows less of it than the first one in the file that can hold the
   request is passed over: a job shall not end early for the sake of a smaller card.
3. The time a request asks for is its ``max_duration``, else the site's ``defaults.time_limit``;
   a partition must allow it. The job's time limit is ``max_duration`` plus the site's
   ``staging_allowance``, or the default; never more than the lifetime plus the allowance, never
   more than the partition's ``max_time``. It is rounded up to minutes, Slurm's resolution.
4. Memory is what the request names, but at least the site's ``least_memory``: packages are
   installed in the job, before the payload has it for itself. A request that names none gets
   the site's ``defaults.memory``.

5. Where the site has rules for its users (``sites/rules.py``), all of this holds for the
   partitions as the request's rule leaves them, and a default time limit is no longer than its.

The rule looks at nothing but its arguments: equal requests get equal specs whenever they come,
so that they can travel as one array. What is left of a lifetime is for the job side to watch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.model import Resources
from hpcrunner.sites.gpu_choice import Offer, best_offer, obstacles, size_text
from hpcrunner.sites.gpus import Gpu, GpuAsk, joined_constraint, read_ask
from hpcrunner.sites.parts import Partition
from hpcrunner.sites.rules import Rule, lower, narrowed
from hpcrunner.sites.site import Site
from hpcrunner.sites.slurmtime import time_text
from hpcrunner.sites.spec import JobSpec
from hpcrunner.sites.values import MIB

_MINUTE = 60


class NoFit(HpcrunnerError):
    """No partition of the site can ever hold the request; the text says why for each."""

    exit_code = 65  # EX_DATAERR


@dataclass(frozen=True, slots=True)
class _Ask:
    """The request with the site's defaults filled in. ``time`` None: nothing asks for any."""

    cpus: int
    memory: int
    gpus: GpuAsk
    time: float | None


def place(
    resources: Resources,
    site: Site,
    *,
    max_duration: float | None = None,
    lifetime: float | None = None,
    rule: Rule | None = None,
) -> JobSpec:
    """The shape of the job that holds a request on a site, by the site's ``rule`` for it.

    ``max_duration`` and ``lifetime`` are the request's, in seconds. Raises NoFit, or GpusUnclear.
    """
    ask = _Ask(
        cpus=resources.cpus or site.defaults.cpus,
        memory=_whole_mib(resources.ram or site.defaults.memory or 0),
        gpus=read_ask(resources, site.gpus.meaning),
        time=_time_asked(site, rule, max_duration, lifetime),
    )
    partitions = narrowed(_partitions(site), rule)
    chosen = _chosen(ask, partitions, by_waste=site.gpus.choice == "least-waste")
    if chosen is None:
        raise _no_fit(ask, partitions, f"site {site.name}{f', rule {rule.name}' if rule else ''}")
    partition, offer = chosen
    constraint = offer.gpu.constraint if offer else None
    return JobSpec(
        partition=partition.name if site.partitions else "",
        cpus=ask.cpus,
        memory=_memory(site, partition, ask, resources.ram),
        time_limit=_time_limit(site, partition, ask, max_duration, lifetime),
        gpus=offer.count if offer else 0,
        gpu_type=offer.gpu.type if offer else "",
        gpu_vendor=offer.gpu.vendor if offer else "",
        gpu_shards=offer.shards if offer else 0,
        tmp=_whole_mib(resources.hdd) if site.tmp else 0,
        account=partition.account or site.account or "",
        qos=partition.qos or site.qos or "",
        requeue=site.requeue,
        directives=joined_constraint(site.directives + partition.directives, constraint),
        disk=resources.hdd,
    )


def _chosen(
    ask: _Ask, partitions: Sequence[Partition], *, by_waste: bool
) -> tuple[Partition, Offer | None] | None:
    """The partition, and what it gives of GPUs if any are asked for; None where nothing fits."""
    holding = [partition for partition in partitions if not _obstacles(ask, partition)]
    if not ask.gpus.wanted:
        return (holding[0], None) if holding else None
    offers = [
        (partition, offer)
        for partition in holding
        if (offer := best_offer(ask.gpus, partition.gpus)) is not None
    ]
    if not by_waste or not offers:
        return offers[0] if offers else None
    if ask.time is None:
        first = offers[0][0].max_time
        offers = [o for o in offers if lower(first, o[0].max_time) == first]
    # min() keeps the first of equals, which is the site's order.
    return min(offers, key=lambda pair: pair[1].waste, default=None)


def _no_fit(ask: _Ask, partitions: Sequence[Partition], where: str) -> NoFit:
    # Many entries fail alike (a file by 'site init' has one for each kind of nodes): told once.
    alike: dict[str, list[str]] = {}
    for partition in partitions:
        names = alike.setdefault(" and ".join(_obstacles(ask, partition)), [])
        if partition.name not in names:
            names.append(partition.name)
    reasons = [f"{', '.join(names)}: {obstacle}" for obstacle, names in alike.items()]
    each = " (gpuMem is the memory of each GPU)" if ask.gpus.memory else ""
    return NoFit(
        f"the request fits no partition: {'; '.join(reasons)}",
        where=where,
        remedy=f"ask for less{each}, or correct the partitions in the site file",
    )


def _partitions(site: Site) -> tuple[Partition, ...]:
    """The site's partitions, or the one that a site without any stands for."""
    if site.scheduler == "local":
        machine = site.local
        own = Gpu(
            memory=machine.gpu_memory or 1,
            count=max(1, len(machine.gpus)),
            vendor=machine.gpu_vendor,
        )
        return (
            Partition(
                name="local",
                max_cpus=machine.cpus,
                max_memory=machine.memory,
                gpus=(own,) if machine.gpus else (),
            ),
        )
    return site.partitions or (Partition(name="default"),)


def _obstacles(ask: _Ask, partition: Partition) -> list[str]:
    """Why a partition cannot hold the request; empty where it can."""
    found = []
    if partition.max_cpus is not None and ask.cpus > partition.max_cpus:
        found.append(f"{ask.cpus} CPUs asked, {partition.max_cpus} allowed")
    if partition.max_memory is not None and ask.memory > partition.max_memory:
        found.append(
            f"{size_text(ask.memory)} of memory asked, {size_text(partition.max_memory)} allowed"
        )
    if partition.max_time is not None and ask.time is not None and ask.time > partition.max_time:
        found.append(
            f"{time_text(ask.time)} of time asked, {time_text(partition.max_time)} allowed"
        )
    if ask.gpus.wanted:
        found += obstacles(ask.gpus, partition.gpus)
    elif partition.gpus_only:
        found.append("takes only requests with GPUs")
    return found


def _memory(site: Site, partition: Partition, ask: _Ask, requested: int) -> int:
    """What was asked, but where the client did the asking enough to install packages in."""
    if not requested:
        return ask.memory
    least = site.least_memory
    if partition.max_memory is not None:
        least = min(least, partition.max_memory)
    return max(ask.memory, _whole_mib(least))


def _time_asked(
    site: Site, rule: Rule | None, max_duration: float | None, lifetime: float | None
) -> float | None:
    if max_duration is None:
        return lower(site.defaults.time_limit, rule.max_time if rule else None)
    return max_duration if lifetime is None else min(max_duration, lifetime)


def _time_limit(
    site: Site,
    partition: Partition,
    ask: _Ask,
    max_duration: float | None,
    lifetime: float | None,
) -> int:
    bounds: list[float] = []
    if ask.time is not None:
        bounds.append(ask.time + (0 if max_duration is None else site.staging_allowance))
    if lifetime is not None:
        bounds.append(lifetime + site.staging_allowance)
    if partition.max_time is not None:
        bounds.append(partition.max_time)
    if not bounds:
        return 0
    return max(1, math.ceil(min(bounds) / _MINUTE)) * _MINUTE


def _whole_mib(size: int) -> int:
    return -(-size // MIB) * MIB
