"""The experiments of a soak, and what each of them may truly end as. Pure.

Every experiment carries its own design in its arguments, so that the payload and the judge
cannot differ: the kind says what the payload does, and with it the one ending that is true.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum

RAM_MB = 200  # asked for; a job gets 1 GiB at least, to make its Python environment in
HOG_MB = 1600  # what a "memory" experiment takes
TIME_LIMIT = "3s"
EXIT_CODE = 3


class Kind(str, Enum):
    """What the payload does after it has written itself into the ledger."""

    WELL = "well"
    STORE = "store"  # as WELL, with its artifacts on the S3 server
    EXIT = "exit"
    SIGNAL = "signal"
    MEMORY = "memory"
    TIME = "time"
    CANCEL = "cancel"  # runs until somebody cancels it


# Of a thousand.
_SHARES = {
    Kind.WELL: 730,
    Kind.STORE: 100,
    Kind.EXIT: 70,
    Kind.SIGNAL: 20,
    Kind.MEMORY: 20,
    Kind.TIME: 20,
    Kind.CANCEL: 40,
}


@dataclass(frozen=True)
class Design:
    """One experiment: its kind, how long its payload sleeps (s), and the burst it comes in."""

    kind: Kind
    sleep: float
    burst: int


def designs(count: int, bursts: int, random_: random.Random) -> list[Design]:
    """``count`` experiments, mixed evenly into as many bursts."""
    kinds: list[Kind] = []
    for kind, share in _SHARES.items():
        kinds += [kind] * max(1, count * share // 1000)
    kinds = (kinds + [Kind.WELL] * count)[:count]
    random_.shuffle(kinds)
    return [
        Design(kind, round(random_.uniform(0.2, 2.0), 2), index * bursts // count)
        for index, kind in enumerate(kinds)
    ]


@dataclass(frozen=True)
class Truth:
    """The ending that an experiment comes to by itself: state, reasons, and the exit code."""

    state: str
    reasons: frozenset[str]
    exit_code: int | None = None


def truth_of(kind: Kind, memory_by_cgroup: bool) -> Truth:
    """The one true ending of a kind, where no fault of the infrastructure is in its way.

    Without a memory cgroup Slurm kills an over-sized job without saying why.
    """
    if kind in (Kind.WELL, Kind.STORE):
        return Truth("SUCCEEDED", frozenset({"COMPLETED"}), 0)
    if kind is Kind.EXIT:
        return Truth("FAILED", frozenset({"PAYLOAD_EXIT"}), EXIT_CODE)
    if kind is Kind.SIGNAL:
        return Truth("FAILED", frozenset({"PAYLOAD_SIGNAL"}))
    if kind is Kind.MEMORY:
        blurred = {"OUT_OF_MEMORY", "SCHEDULER_FAILED", "PAYLOAD_SIGNAL"}
        return Truth("FAILED", frozenset({"OUT_OF_MEMORY"} if memory_by_cgroup else blurred))
    if kind is Kind.TIME:
        return Truth("FAILED", frozenset({"MAX_DURATION"}))
    return Truth("CANCELLED", frozenset({"CANCELLED"}))
