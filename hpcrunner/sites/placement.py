"""Which partition and GPU type a request gets, and with what limits: request → JobSpec.

The rule, in full:

1. Partitions are tried in the order of the site file; the first that can hold the whole
   request gets it. ``gpus_only`` partitions are passed over by requests without GPUs. A
   partition without that mark takes any request that fits, so the file's order is the policy.
2. Inside it, a request with GPUs gets the type with the least memory that is at least
   ``gpuMem`` and of which one node has as many as asked; of two with equal memory the first
   listed. Without ``gpuMem`` every type qualifies, so the smallest is taken and the large ones
   stay free for those who need them.
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
from dataclasses import dataclass

from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.model import Resources
from hpcrunner.sites.parts import Gpu, Partition
from hpcrunner.sites.rules import Rule, lower, narrowed
from hpcrunner.sites.site import Site
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
    gpus: int
    gpu_memory: int
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

    ``max_duration`` and ``lifetime`` are the request's, in seconds. Raises NoFit.
    """
    ask = _Ask(
        cpus=resources.cpus or site.defaults.cpus,
        memory=_whole_mib(resources.ram or site.defaults.memory or 0),
        gpus=resources.gpus,
        gpu_memory=resources.gpu_memory,
        time=_time_asked(site, rule, max_duration, lifetime),
    )
    reasons = []
    for partition in narrowed(_partitions(site), rule):
        obstacles = _obstacles(ask, partition)
        if not obstacles:
            return JobSpec(
                partition=partition.name if site.partitions else "",
                cpus=ask.cpus,
                memory=_memory(site, partition, ask, resources.ram),
                time_limit=_time_limit(site, partition, ask, max_duration, lifetime),
                gpus=ask.gpus,
                gpu_type=_smallest(ask, partition).type if ask.gpus else "",
                tmp=_whole_mib(resources.hdd) if site.tmp else 0,
                account=partition.account or site.account or "",
                qos=partition.qos or site.qos or "",
                requeue=site.requeue,
                directives=site.directives + partition.directives,
                disk=resources.hdd,
            )
        reasons.append(f"{partition.name}: {' and '.join(obstacles)}")
    raise NoFit(
        f"the request fits no partition: {'; '.join(reasons)}",
        where=f"site {site.name}{f', rule {rule.name}' if rule else ''}",
        remedy="ask for less, or correct the partitions in the site file",
    )


def _partitions(site: Site) -> tuple[Partition, ...]:
    """The site's partitions, or the one that a site without any stands for."""
    if site.scheduler == "local":
        machine = site.local
        return (Partition(name="local", max_cpus=machine.cpus, max_memory=machine.memory),)
    return site.partitions or (Partition(name="default"),)


def _obstacles(ask: _Ask, partition: Partition) -> list[str]:
    """Why a partition cannot hold the request; empty where it can."""
    found = []
    if partition.max_cpus is not None and ask.cpus > partition.max_cpus:
        found.append(f"{ask.cpus} CPUs asked, {partition.max_cpus} allowed")
    if partition.max_memory is not None and ask.memory > partition.max_memory:
        found.append(f"{_size(ask.memory)} of memory asked, {_size(partition.max_memory)} allowed")
    if partition.max_time is not None and ask.time is not None and ask.time > partition.max_time:
        found.append(f"{_clock(ask.time)} of time asked, {_clock(partition.max_time)} allowed")
    if not ask.gpus:
        if partition.gpus_only:
            found.append("takes only requests with GPUs")
    elif not partition.gpus:
        found.append("no GPUs")
    elif not _fitting(ask, partition):
        found += [_gpu_obstacle(ask, gpu) for gpu in partition.gpus]
    return found


def _gpu_obstacle(ask: _Ask, gpu: Gpu) -> str:
    name = gpu.type or "a GPU"
    if ask.gpu_memory > gpu.memory:
        return f"{_size(ask.gpu_memory)} of GPU memory asked, {name} has {_size(gpu.memory)}"
    return f"{ask.gpus} GPUs asked, {gpu.type or 'a node'} has {gpu.count}"


def _fitting(ask: _Ask, partition: Partition) -> list[Gpu]:
    return [g for g in partition.gpus if g.memory >= ask.gpu_memory and g.count >= ask.gpus]


def _smallest(ask: _Ask, partition: Partition) -> Gpu:
    # min() keeps the first of equals, which is the site's order.
    return min(_fitting(ask, partition), key=lambda gpu: gpu.memory)


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


def _size(size: int) -> str:
    for unit, name in ((1024**4, "TiB"), (1024**3, "GiB")):
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size / MIB:.4g} MiB"


def _clock(seconds: float) -> str:
    """Slurm's days-hours:minutes:seconds."""
    minutes, second = divmod(math.ceil(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour:02d}:{minute:02d}:{second:02d}"
    return f"{days}-{clock}" if days else clock
