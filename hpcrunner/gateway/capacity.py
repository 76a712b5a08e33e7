"""What the experiments of one gateway may use at once, whatever the cluster would give. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hpcrunner.request.units import format_bytes
from hpcrunner.sites.spec import JobSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The most that experiments in the scheduler may ask for together; 0 is no limit.

    ``memory`` and ``disk`` (the ``hdd`` of the requests) are bytes. With ``cpu_only`` none may
    ask for GPUs.
    """

    cores: int = 0
    memory: int = 0
    disk: int = 0
    cpu_only: bool = False

    @property
    def limited(self) -> bool:
        """True where sums have to be watched."""
        return bool(self.cores or self.memory or self.disk)


UNLIMITED = Capacity()


@dataclass(frozen=True, slots=True)
class Load:
    """What some experiments ask for together; bytes for ``memory`` and ``disk``."""

    cores: int = 0
    memory: int = 0
    disk: int = 0

    def plus(self, spec: JobSpec, count: int = 1) -> Load:
        """With so many of that shape more."""
        return Load(
            self.cores + count * spec.cpus,
            self.memory + count * spec.memory,
            self.disk + count * spec.disk,
        )


def load_of(specs: Iterable[JobSpec]) -> Load:
    """The sum over all of these."""
    load = Load()
    for spec in specs:
        load = load.plus(spec)
    return load


def obstacle(spec: JobSpec, capacity: Capacity) -> str:
    """Why an experiment of that shape can never run within the limits; "" where it can."""
    found = []
    if capacity.cpu_only and spec.gpus:
        found.append(f"{spec.gpus} GPUs asked, and this gateway takes none (--cpu-only)")
    if capacity.cores and spec.cpus > capacity.cores:
        found.append(f"{spec.cpus} CPUs asked, {capacity.cores} allowed (--max-cores)")
    for asked, most, name, option in (
        (spec.memory, capacity.memory, "memory", "--max-mem"),
        (spec.disk, capacity.disk, "disk", "--max-disk"),
    ):
        if most and asked > most:
            found.append(
                f"{format_bytes(asked)} of {name} asked, {format_bytes(most)} allowed ({option})"
            )
    return " and ".join(found)


def fitting(spec: JobSpec, capacity: Capacity, load: Load, most: int) -> int:
    """How many of that shape, ``most`` at most, fit beside what runs."""
    for each, limit, used in (
        (spec.cpus, capacity.cores, load.cores),
        (spec.memory, capacity.memory, load.memory),
        (spec.disk, capacity.disk, load.disk),
    ):
        if limit and each:
            most = min(most, max(0, limit - used) // each)
    return most
