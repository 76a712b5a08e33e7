"""The GPUs of a site as data: its types, and what the numbers of a request mean here.

Runners for StudioML have read ``gpus`` and ``gpuCount`` in three ways, and clients of each are
about. The site says which of them its clients have (``gpus.meaning``):

===============  =============================  ==============================  ==================
meaning          ``gpus``                       ``gpuCount``                    runners
===============  =============================  ==============================  ==================
cards            number of cards                the same, where ``gpus`` is 0   Python; the default
slots            slots, of all cards together   refused                         Go, until 2021
slots-and-cards  slots of each card, at least   number of cards (0: one)        Go, 0.14.3
cards-and-slots  number of cards                slots of each card, exactly;    Go, from 2022
                                                0: of any
===============  =============================  ==============================  ==================

A slot is a unit of a card's strength: a V100 has sixteen, a K80 two. Whoever asks for slots thus
chooses among types of cards; whole cards are given whatever the meaning is. ``gpuMem`` is the
memory that each single card must have. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.errors import shown
from hpcrunner.request.model import Resources
from hpcrunner.sites.part import Part
from hpcrunner.sites.values import Allowed, Budget, Count, GpuName, Memory

# Slots by what is found in a type's name. A digit after it would make another card: P4000.
_WELL_KNOWN_SLOTS = (
    (re.compile(r"10[5678]0(?!\d)|titan[ _-]?x|2080[ _-]?ti|k80(?!\d)"), 2),
    (re.compile(r"p40(?!\d)"), 4),
    (re.compile(r"p100(?!\d)"), 8),
    (re.compile(r"v100(?!\d)"), 16),
    (re.compile(r"a100(?!\d)"), 24),
)
_PART_OF_A_CARD = re.compile(r"\dg\.\d+gb", re.IGNORECASE)
_DEVICE = "^[A-Za-z0-9][A-Za-z0-9._/-]*$"
_CONSTRAINT = "^[A-Za-z0-9_][A-Za-z0-9_.:-]*(&[A-Za-z0-9_][A-Za-z0-9_.:-]*)*$"


def _constraint(value: str) -> str:
    if not re.fullmatch(_CONSTRAINT, value):
        raise ValueError
    return value


Constraint = Annotated[
    str,
    AfterValidator(_constraint),
    Allowed("names of node features, joined by &", _CONSTRAINT),
]


def _device(value: object) -> str:
    if isinstance(value, bool) or not re.fullmatch(_DEVICE, str(value)):
        raise ValueError
    return str(value)


Device = Annotated[
    str, BeforeValidator(_device), Allowed("a GPU's number or UUID, as 0 or GPU-8932f937", _DEVICE)
]


class Gpu(Part):
    """A type of GPU in a partition, or a part of a card that is handed out by itself (MIG)."""

    type: GpuName = Field(
        default="",
        description="Type in Slurm's gres.conf (`sinfo -o %G` shows `gpu:TYPE:COUNT`), as it is "
        "asked for; empty where the site's GPUs have none.",
        examples=["a100", "nvidia_a100_3g.20gb"],
    )
    name: GpuName = Field(
        default="",
        description="Name for people and for a request's `gpuType`, where `type` does not tell; "
        "left out: `type`.",
        examples=["a100-80g"],
    )
    memory: Memory = Field(
        description="Memory of one GPU; a request's `gpuMem` must fit into it.", examples=["80G"]
    )
    count: Count = Field(description="GPUs of this type in one node.", examples=["4"])
    constraint: Constraint | None = Field(
        default=None,
        description="Feature of the nodes that have it, asked for with `--constraint` beside the "
        "count. Joined with `&` to a `--constraint` of `directives`.",
        examples=["hbm80g"],
    )
    vendor: Literal["nvidia", "amd"] = Field(
        default="nvidia",
        description="Whose it is: containers get `--nv` or `--rocm`, and the check on the node "
        "asks `nvidia-smi` or `rocm-smi`.",
    )
    slots: Budget | None = Field(
        default=None,
        description="What it counts where requests ask for slots (`gpus.meaning`); left out: by "
        "its `type`, see docs/gpus.md. `0`: it is not given to who asks for slots.",
        examples=["16"],
    )
    shards: Budget = Field(
        default=0,
        description="Parts that Slurm shares one such card in (`shard` in `sinfo -o %G`, divided "
        "by the cards). A request for one GPU whose `gpuMem` fits into some of them gets those, "
        "with `--gres=shard:N`; 0: cards are not shared.",
        examples=["4"],
    )

    @property
    def label(self) -> str:
        """What people call it; empty where it has neither name nor type."""
        return self.name or self.type

    @property
    def slot_count(self) -> int:
        """Its slots, 0 where nobody knows."""
        return self.slots if self.slots is not None else well_known_slots(self.type or self.name)


class Gpus(Part):
    """How requests for GPUs are read, and how the choice is made."""

    meaning: Literal["cards", "slots", "slots-and-cards", "cards-and-slots"] = Field(
        default="cards",
        description="What `gpus` and `gpuCount` of a request are, in this order; docs/gpus.md "
        "says which clients mean what.",
    )
    choice: Literal["least-waste", "file-order"] = Field(
        default="least-waste",
        description="`least-waste`: of all partitions that can hold the request, the one whose "
        "GPUs are no larger than need be; among equals the first. `file-order`: the first "
        "partition that can hold it, and the least in it.",
    )
    check: Literal["full", "count", "none"] = Field(
        default="full",
        description="What is looked at on the node before anything is fetched. `count`: that the "
        "job was given as many GPUs as it asked for; `full`: also that they answer and have the "
        "memory asked for, where `nvidia-smi` or `rocm-smi` is there to tell.",
    )


class GpusUnclear(HpcrunnerError):
    """The numbers of a request contradict each other, as this site reads them."""

    exit_code = 65  # EX_DATAERR


@dataclass(frozen=True, slots=True)
class GpuAsk:
    """What a request asks for, in this site's meaning.

    ``cards``: how many; 0 with ``slots``: as many as have that many slots together. With
    ``cards``, ``slots`` are those of each card (0: of any), at least, or ``exact``. ``memory``
    is bytes of each card; ``type`` a label of the site's file, empty for any.
    """

    cards: int = 0
    slots: int = 0
    exact: bool = False
    memory: int = 0
    type: str = ""

    @property
    def wanted(self) -> bool:
        """Whether any GPU is asked for."""
        return self.cards > 0 or self.slots > 0


def read_ask(resources: Resources, meaning: str) -> GpuAsk:
    """What a request asks for. Raises GpusUnclear where the meaning leaves no reading."""
    gpus, count, memory = resources.gpus, resources.gpu_count, resources.gpu_memory
    if meaning == "cards":
        ask = GpuAsk(cards=gpus or count)
    elif meaning == "slots":
        if count:
            raise _unclear(f"gpuCount is {count}, and gpus counts slots here", "leave gpuCount out")
        # With memory alone, any one card that has it.
        ask = GpuAsk(cards=0 if gpus or not memory else 1, slots=gpus)
    elif meaning == "slots-and-cards":
        ask = GpuAsk(cards=count or (1 if gpus else 0), slots=gpus)
    else:
        if count and not gpus:
            raise _unclear(
                f"gpuCount asks for {count} slots of each card, and gpus for no cards",
                "say how many cards with gpus",
            )
        ask = GpuAsk(cards=gpus, slots=count, exact=count > 0)
    if not ask.wanted:
        if resources.gpu_type:
            raise _unclear(
                f"gpuType is {shown(resources.gpu_type)} and no GPU is asked for",
                "say how many with gpus",
            )
        return GpuAsk()
    return GpuAsk(ask.cards, ask.slots, ask.exact, memory, resources.gpu_type)


def _unclear(what: str, remedy: str) -> GpusUnclear:
    return GpusUnclear(
        what,
        where="experiment.resources_needed",
        remedy=f"{remedy}, or set gpus.meaning of the site file to what the client means",
    )


def well_known_slots(name: str) -> int:
    """The slots of a card by its type's name, as runners have always counted; 0 for unknown."""
    if _PART_OF_A_CARD.search(name):
        return 0
    return next((n for words, n in _WELL_KNOWN_SLOTS if words.search(name.lower())), 0)


def gpu_mistakes(
    gpus: Sequence[Gpu], neighbours: Sequence[Gpu], constraint: str
) -> Iterator[tuple[int, str, str]]:
    """What is wrong between the types of a partition: (number, key, one line) for each.

    ``neighbours`` are all types of Slurm's partition of that name; ``constraint`` is the one
    that its jobs have anyway.
    """
    labels: list[str] = []
    asked: dict[tuple[str, str | None], str] = {}
    for number, gpu in enumerate(gpus):
        if gpu.label in labels:
            key = "name" if gpu.name else "type"
            yield number, key, f"{gpu.label!r} stands twice in this partition"
        elif (words := (gpu.type, gpu.constraint)) in asked:
            yield number, "name", f"asked for in the same words as {asked[words]!r}"
        labels.append(gpu.label)
        asked[gpu.type, gpu.constraint] = gpu.label
        if gpu.shards and not gpu.constraint and len(neighbours) > 1:
            yield (
                number,
                "shards",
                "Slurm's shards have no type: it needs a constraint, or a partition of its own",
            )
        if gpu.constraint and constraint and not re.fullmatch(_CONSTRAINT, constraint):
            yield number, "constraint", f"cannot be joined to --constraint={constraint}"


def joined_constraint(directives: Sequence[str], constraint: str | None) -> tuple[str, ...]:
    """The directives with a GPU's constraint in them, since Slurm heeds the last one alone."""
    if constraint is None:
        return tuple(directives)
    own = constraint_of(directives)
    others = [word for word in directives if not word.startswith(_OPTION)]
    return (*others, f"{_OPTION}{own}&{constraint}" if own else f"{_OPTION}{constraint}")


def constraint_of(directives: Sequence[str]) -> str:
    """The constraint that these directives make, empty for none."""
    made = [word.removeprefix(_OPTION) for word in directives if word.startswith(_OPTION)]
    return made[-1] if made else ""


_OPTION = "--constraint="
