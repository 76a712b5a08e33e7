"""Which type of GPU, and how many, are given for what was asked: by least waste. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpcrunner.request.errors import shown
from hpcrunner.sites.gpus import Gpu, GpuAsk

Waste = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Offer:
    """``count`` GPUs of a type; with ``shards`` one of them, shared, of which that many parts.

    ``waste`` orders offers: slots beyond those asked for, then cards, then bytes of memory that
    nobody else has meanwhile.
    """

    gpu: Gpu
    count: int
    shards: int
    waste: Waste


def best_offer(ask: GpuAsk, gpus: Sequence[Gpu]) -> Offer | None:
    """The offer that wastes least, of equals the first listed; None where none is possible."""
    made = [offer for gpu in gpus if (offer := offer_of(ask, gpu)) is not None]
    return min(made, key=lambda offer: offer.waste, default=None)


def offer_of(ask: GpuAsk, gpu: Gpu) -> Offer | None:
    """What this type gives for the ask, or None."""
    if obstacle(ask, gpu):
        return None
    count = _cards(ask, gpu)
    shards = _shards(ask, gpu, count)
    size = gpu.memory * shards // gpu.shards if shards else gpu.memory * count
    asked = ask.slots * ask.cards if ask.cards else ask.slots
    slots = gpu.slot_count * count - asked if ask.slots else 0
    return Offer(gpu, count, shards, (slots, count, size))


def obstacles(ask: GpuAsk, gpus: Sequence[Gpu]) -> list[str]:
    """Why none of these types can be given, for people; empty where one can."""
    if not gpus:
        return ["no GPUs"]
    if ask.type and ask.type not in {gpu.label for gpu in gpus}:
        there = ", ".join(gpu.label or "some without a type" for gpu in gpus)
        return [f"GPUs of type {shown(ask.type)} asked, there are {there}"]
    lines = [obstacle(ask, gpu) for gpu in gpus if not ask.type or ask.type == gpu.label]
    return lines if all(lines) else []


def obstacle(ask: GpuAsk, gpu: Gpu) -> str:
    """Why a type cannot be given, for people; empty where it can."""
    name = gpu.label or "a GPU"
    if ask.type and ask.type != gpu.label:
        return f"GPUs of type {shown(ask.type)} asked, {name} is another"
    if ask.memory > gpu.memory:
        return f"{size_text(ask.memory)} of GPU memory asked, {name} has {size_text(gpu.memory)}"
    if ask.slots and not gpu.slot_count:
        return f"{ask.slots} slots asked, {name} has no number of slots in the site file"
    if ask.cards and (ask.slots > gpu.slot_count or (ask.exact and ask.slots != gpu.slot_count)):
        return f"{ask.slots} slots of each GPU asked, {name} has {gpu.slot_count}"
    if _cards(ask, gpu) > gpu.count:
        where = gpu.label or "a node"
        if ask.cards:
            return f"{ask.cards} GPUs asked, {where} has {gpu.count}"
        return f"{ask.slots} slots asked, {where} has {gpu.count} GPUs of {gpu.slot_count}"
    return ""


def size_text(size: int) -> str:
    """A size for people, in powers of 1024."""
    for unit, name in ((1024**4, "TiB"), (1024**3, "GiB")):
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size / 1024**2:.4g} MiB"


def _cards(ask: GpuAsk, gpu: Gpu) -> int:
    return ask.cards or -(-ask.slots // gpu.slot_count)


def _shards(ask: GpuAsk, gpu: Gpu, count: int) -> int:
    """Parts of one card that hold the memory asked for; 0 for whole cards.

    Who names no memory gets whole cards, as runners that shared cards have always done it.
    """
    if count != 1 or ask.slots or not ask.memory or not gpu.shards:
        return 0
    needed = -(-ask.memory * gpu.shards // gpu.memory)
    return needed if needed < gpu.shards else 0
