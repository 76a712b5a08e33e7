"""When which fault happens: a list drawn from a seed. Pure.

Two faults may be under way at once, but never two of one server, and no node dies while the
controller is away: Slurm would then hold its jobs for running until it misses them by chance,
which is slow and shows nothing of ours.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

NODES = ("n0", "n1", "n2")


@dataclass(frozen=True)
class Fault:
    """``what`` happens to ``target`` at ``at``, and is mended ``down`` later (seconds).

    ``what``: ``kill`` (a server), ``node-fail``, or what happens to the gateway: ``gateway-kill``,
    ``gateway-term``, ``gateway-twins`` (killed, then two are started at once).
    """

    at: float
    what: str
    target: str
    down: float

    @property
    def name(self) -> str:
        """The kind, as the table has it."""
        return {"kill": self.target.partition("-")[0]}.get(self.what, self.what)


# What, target (a node's name is appended where it ends in a dash), shortest and longest
# outage, weight. A slurmd is back before Slurm calls its node dead; a dead node is not always.
_KINDS = (
    ("kill", "slurmctld", 1.0, 20.0, 3),
    ("kill", "slurmdbd", 1.0, 30.0, 2),
    ("kill", "slurmd-", 1.0, 12.0, 2),
    ("node-fail", "slurmd-", 3.0, 45.0, 2),
    ("kill", "rabbitmq", 0.5, 15.0, 3),
    ("kill", "s3", 1.0, 25.0, 2),
    ("gateway-kill", "gateway", 0.0, 8.0, 3),
    ("gateway-term", "gateway", 0.0, 5.0, 1),
    ("gateway-twins", "gateway", 0.0, 3.0, 1),
)
_MARGIN = 6.0  # from a mended server to its next fault, so that there is something to see
_BOOT = 6.0  # what starting a server may take on top of its outage


def schedule(count: int, gap: float, random_: random.Random) -> list[Fault]:
    """``count`` faults, one every ``gap`` seconds on the average, each kind at least once if
    there is room for all.
    """
    kinds = list(_KINDS)
    random_.shuffle(kinds)
    weights = [weight for *_, weight in _KINDS]
    while len(kinds) < count:
        kinds.append(random_.choices(_KINDS, weights)[0])
    faults: list[Fault] = []
    at = gap
    for what, target, shortest, longest, _ in kinds[:count]:
        if target.endswith("-"):
            target += random_.choice(NODES)
        fault = Fault(round(at, 1), what, target, round(random_.uniform(shortest, longest), 1))
        fault = _after(fault, max((_end(f) for f in faults if _collide(f, fault)), default=0.0))
        faults.append(fault)
        at += gap * random_.uniform(0.4, 1.6)
    return sorted(faults, key=lambda fault: fault.at)


def _after(fault: Fault, earliest: float) -> Fault:
    return Fault(max(fault.at, round(earliest, 1)), fault.what, fault.target, fault.down)


def _end(fault: Fault) -> float:
    return fault.at + fault.down + _BOOT + _MARGIN


def _collide(one: Fault, other: Fault) -> bool:
    pair = {one.what, other.what}
    targets = {one.target, other.target}
    return len(targets) == 1 or ("node-fail" in pair and "slurmctld" in targets)
