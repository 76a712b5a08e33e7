"""scontrol(1) show partition and show node, one line each, as 20.11 to 25.x print them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hpcrunner.schedulers.command import Completed
from hpcrunner.schedulers.contract import SchedulerUnavailable
from hpcrunner.sites.slurmtime import parse_time
from hpcrunner.sites.values import MIB

PARTITIONS = ("scontrol", "--all", "--oneliner", "show", "partition")
NODES = ("scontrol", "--all", "--oneliner", "show", "node")

# A value may hold blanks (OS, Reason, Comment); it ends where the next name begins.
_PAIR = re.compile(r"([A-Za-z][A-Za-z_:/()]*)=(.*?)(?=\s+[A-Z][A-Za-z_:/()]*=|\s*$)")
# A node that saves power (POWERED_DOWN) is started for the job that needs it.
_UNUSABLE = ("DOWN", "DRAIN", "FAIL", "FUTURE", "UNKNOWN", "NOT_RESPONDING")
_NOTHING = frozenset({"", "(null)", "N/A", "none", "NONE", "UNLIMITED", "ALL", "INFINITE"})


@dataclass(frozen=True, slots=True)
class RealPartition:
    """A partition as it is. Empty tuples: anybody. ``max_time`` in seconds, None without end.

    ``max_memory`` in bytes of one node, None for all of it; ``min_nodes`` of each job.
    """

    name: str
    up: bool = True
    default: bool = False
    hidden: bool = False
    root_only: bool = False
    max_time: int | None = None
    max_cpus: int | None = None
    max_memory: int | None = None
    min_nodes: int = 0
    allow_accounts: tuple[str, ...] = ()
    deny_accounts: tuple[str, ...] = ()
    allow_groups: tuple[str, ...] = ()
    allow_qos: tuple[str, ...] = ()
    deny_qos: tuple[str, ...] = ()
    whole_nodes: bool = False


@dataclass(frozen=True, slots=True)
class RealNode:
    """A node as it is: what jobs can have of it. GPUs by type ("" for none).

    Memory in bytes; 0 where Slurm was told none and therefore counts none.
    """

    name: str
    partitions: tuple[str, ...] = ()
    cpus: int = 0
    memory: int = 0
    gpus: tuple[tuple[str, int], ...] = ()
    shards: int = 0
    usable: bool = True
    features: tuple[str, ...] = ()
    version: str = ""


def partitions(done: Completed) -> tuple[RealPartition, ...]:
    """All partitions of the answer. Raises SchedulerUnavailable."""
    return tuple(_partition(pairs) for pairs in _lines(done, "PartitionName", "show partition"))


def nodes(done: Completed) -> tuple[RealNode, ...]:
    """All nodes of the answer. Raises SchedulerUnavailable."""
    return tuple(_node(pairs) for pairs in _lines(done, "NodeName", "show node"))


def gpus_of(gres: str, wanted: str = "gpu") -> tuple[tuple[str, int], ...]:
    """The GPUs of a node's ``Gres``: ``gpu:a100:4(S:0-1)``, ``gpu:4``, ``gpu:v100:2,shard:8``."""
    counts: dict[str, int] = {}
    # Sockets and the like stand in brackets, which may hold commas.
    for word in re.sub(r"\([^)]*\)", "", gres).split(","):
        name, *rest = word.strip().split(":")
        if name != wanted:
            continue
        rest = [part for part in rest if part != "no_consume"]
        count = int(rest.pop()) if rest and rest[-1].isdecimal() else 1
        kind = rest[0] if rest else ""
        counts[kind] = counts.get(kind, 0) + count
    return tuple(counts.items())


def _lines(done: Completed, first: str, command: str) -> Iterator[Mapping[str, str]]:
    if done.returncode != 0:
        why = done.stderr.strip().partition("\n")[0][:200] or "no word why"
        raise SchedulerUnavailable(
            f"failed ({why})",
            where=f"scontrol {command}",
            remedy="is the Slurm controller up (scontrol ping)?",
        )
    for line in done.stdout.splitlines():
        pairs = dict(_PAIR.findall(line.strip()))
        if first in pairs:
            yield pairs


def _partition(pairs: Mapping[str, str]) -> RealPartition:
    share = pairs.get("OverSubscribe", pairs.get("Shared", ""))
    return RealPartition(
        name=pairs["PartitionName"],
        up=pairs.get("State", "UP") == "UP",
        default=pairs.get("Default") == "YES",
        hidden=pairs.get("Hidden") == "YES",
        root_only=pairs.get("RootOnly") == "YES",
        max_time=_time(pairs.get("MaxTime", "")),
        max_cpus=_number(pairs.get("MaxCPUsPerNode", "")),
        max_memory=(_number(pairs.get("MaxMemPerNode", "")) or 0) * MIB or None,
        min_nodes=_number(pairs.get("MinNodes", "")) or 0,
        allow_accounts=_names(pairs.get("AllowAccounts", "")),
        deny_accounts=_names(pairs.get("DenyAccounts", "")),
        allow_groups=_names(pairs.get("AllowGroups", "")),
        allow_qos=_names(pairs.get("AllowQos", "")),
        deny_qos=_names(pairs.get("DenyQos", "")),
        whole_nodes=share.startswith("EXCLUSIVE"),
    )


def _node(pairs: Mapping[str, str]) -> RealNode:
    total = _number(pairs.get("CPUTot", "")) or 0
    kept = (_number(pairs.get("CoreSpecCount", "")) or 0) * (
        _number(pairs.get("ThreadsPerCore", "")) or 1
    )
    memory = _number(pairs.get("RealMemory", "")) or 0
    memory = 0 if memory == 1 else memory  # slurm.conf names none
    state = pairs.get("State", "UNKNOWN").rstrip("*~#!%$@^-")
    return RealNode(
        name=pairs["NodeName"],
        partitions=_names(pairs.get("Partitions", "")),
        cpus=_number(pairs.get("CPUEfctv", "")) or max(total - kept, 0),
        memory=max(memory - (_number(pairs.get("MemSpecLimit", "")) or 0), 0) * MIB,
        gpus=gpus_of(pairs.get("Gres", "")),
        shards=sum(count for _, count in gpus_of(pairs.get("Gres", ""), "shard")),
        # Flags come after a plus: IDLE+DRAIN, DOWN*+NOT_RESPONDING.
        usable=not any(word.rstrip("*~#!%$@^-") in _UNUSABLE for word in state.split("+")),
        features=_names(pairs.get("ActiveFeatures", pairs.get("AvailableFeatures", ""))),
        version=pairs.get("Version", ""),
    )


def _names(text: str) -> tuple[str, ...]:
    return () if text in _NOTHING else tuple(name for name in text.split(",") if name)


def _number(text: str) -> int | None:
    match = re.match(r"\d{1,12}", text)
    return int(match[0]) if match else None


def _time(text: str) -> int | None:
    try:
        return parse_time(text)
    except ValueError:
        return None
