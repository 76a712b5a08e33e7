"""The mappings inside a site config: partitions, limits and what else has keys of its own.

The descriptions are the text of docs/site-config.md. Units: bytes, seconds.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hpcrunner.sites.directives import check_directive
from hpcrunner.sites.gpus import Device, Gpu
from hpcrunner.sites.gridengine import check_option, is_option
from hpcrunner.sites.part import Part
from hpcrunner.sites.values import (
    Age,
    Allowed,
    Budget,
    Count,
    LoginPath,
    LongAge,
    Memory,
    MemoryOrNone,
    NodePath,
    Pattern,
    Period,
    Rate,
    Seconds,
    SlurmName,
    SubmitRate,
    Switch,
    TimeLimit,
)


def _directive(word: str) -> str:
    return check_option(word) if is_option(word) else check_directive(word)


SiteDirective = Annotated[
    str,
    AfterValidator(_directive),
    Allowed(
        "a long option, --name or --name=value, that hpcrunner does not set itself; with "
        "scheduler gridengine -l, -ac, -ar, -binding, -jc, -js or -R with its value"
    ),
]


class Partition(Part):
    """What one job may ask of a partition. One partition may stand twice, for two node kinds."""

    name: SlurmName = Field(description="Slurm's name of the partition.", examples=["gpu"])
    max_time: TimeLimit = Field(
        default=None, description="Longest time limit of a job.", examples=["2-00:00:00"]
    )
    max_cpus: Count | None = Field(
        default=None, description="Most CPUs of a job: those of one node.", examples=["64"]
    )
    max_memory: Memory | None = Field(
        default=None,
        description="Most memory of a job: what one node has for jobs (`RealMemory` less "
        "`MemSpecLimit`).",
        examples=["500G"],
    )
    gpus: tuple[Gpu, ...] = Field(
        default=(), description="GPU types of the partition's nodes; none: no GPUs."
    )
    gpus_only: Switch = Field(
        default=False, description="Whether jobs without GPUs are kept off this partition."
    )
    account: SlurmName | None = Field(
        default=None, description="Account to charge here instead of the site's `account`."
    )
    qos: SlurmName | None = Field(
        default=None, description="QOS here instead of the site's `qos`.", examples=["gpu-long"]
    )
    directives: tuple[SiteDirective, ...] = Field(
        default=(),
        description="Options for jobs here, after the site's `directives`.",
        examples=["--constraint=skylake"],
    )


class Defaults(Part):
    """What a job gets where the request does not say."""

    cpus: Count = Field(default=1, description="CPUs of a job whose request names none.")
    memory: Memory | None = Field(
        default=None,
        description="Memory of a job whose request names none; left out: the partition's own "
        "default.",
        examples=["4G"],
    )
    time_limit: TimeLimit = Field(
        default=None,
        description="Time limit of a job whose request has no `max_duration`; left out: the "
        "partition's `max_time`.",
        examples=["04:00:00"],
    )


class Limits(Part):
    """What the site bears."""

    submit_rate: SubmitRate = Field(
        default=Rate(10, 1.0),
        description="Submissions to the scheduler; an array is one submission.",
        examples=["30/1m"],
    )
    max_jobs: Count = Field(
        default=1000,
        description="Most experiments that wait or run in the scheduler at once; the rest stays "
        "in the queue.",
        examples=["200"],
    )
    max_held: Count = Field(
        default=500,
        description="Most experiments of one queue that wait here because a rule lets no more of "
        "them into the scheduler; the rest stays in that queue.",
        examples=["20"],
    )
    max_array_size: Annotated[int, Field(ge=2), Allowed("a whole number from 2")] = Field(
        default=1001,
        description="`MaxArraySize` of `scontrol show config`: the highest array index is one "
        "less.",
    )
    max_array_tasks: Count = Field(
        default=500, description="Most experiments in one array.", examples=["100"]
    )

    @property
    def largest_array(self) -> int:
        """Most tasks in one array, which are numbered from 1."""
        return min(self.max_array_tasks, self.max_array_size - 1)


class Retries(Part):
    """How often a failed experiment is tried again, by whose fault it failed."""

    infrastructure: Budget = Field(
        default=3,
        description="Attempts after failures of the infrastructure: a node, the scheduler, a "
        "store, a full disk, preemption without requeueing.",
    )
    payload: Budget = Field(
        default=0,
        description="Attempts after failures of the payload: an exit code, a signal, its memory "
        "or time limit.",
    )
    backoff: Seconds = Field(
        default=30.0,
        description="Seconds before the second attempt; twice as long before each further one.",
    )
    longest_backoff: Seconds = Field(
        default=1800.0, description="Most seconds between two attempts."
    )
    exclude_nodes: Switch = Field(
        default=True,
        description="Whether the next attempt keeps off a node that was at fault.",
    )


class ClearText(Part):
    """Whether messages that are not sealed are taken from some queues."""

    queues: Pattern = Field(
        description="The queues: what is found anywhere in a queue's name.",
        examples=["^rmq_public_"],
    )
    allowed: Switch = Field(
        description="Whether clear text is taken from them. Sealed messages always are."
    )


class Retention(Part):
    """How long what has ended is kept. Ages count from the last entry of a history."""

    secrets: Age = Field(
        default=86400.0,
        description="For how long messages and plans, which hold credentials, are kept after the "
        "last experiment of a batch has ended. The messages of the dead list stay, so that it can "
        "be retried.",
        examples=["1h"],
    )
    ended: Age = Field(
        default=30 * 86400.0,
        description="For how long logs, records and journal rows of ended experiments are kept; "
        "never shorter than `repeat_window`.",
        examples=["90d"],
    )
    dead: Age = Field(
        default=90 * 86400.0, description="The same for experiments of the dead list."
    )
    store: LongAge = Field(
        default=None,
        description="For how long results and code that `hpcrunner submit` has put into the "
        "spool's own `store` stay there after they were last written or submitted; never shorter "
        "than the experiment's journal row; left out: for ever.",
        examples=["180d"],
    )
    environments: LongAge = Field(
        default=30 * 86400.0,
        description="For how long a Python environment, or a downloaded package of pip, stays in "
        "the `cache` while no job uses it.",
    )


class ArtifactCache(Part):
    """Immutable artifacts that are kept for other jobs."""

    path: NodePath | None = Field(
        default=None,
        description="Folder in which a folder `artifacts` is made, best on a file system that "
        "all nodes share; left out: `cache`.",
        examples=["/scratch/$USER/hpcrunner"],
    )
    size: MemoryOrNone = Field(
        default=2 * 1024**3,
        description="Most bytes in it: what was not used for longest goes. `0` turns it off.",
        examples=["50G"],
    )


class S3(Part):
    """TLS of S3 servers other than AWS's own."""

    ca: LoginPath | None = Field(
        default=None,
        description="PEM file of the authorities that these servers' certificates are checked "
        "by, instead of the system's. Every node must see it.",
        examples=["~/certs/minio-ca.pem"],
    )
    cert: LoginPath | None = Field(
        default=None,
        description="PEM file of the client certificate to show them; needs `key`.",
        examples=["~/certs/me.pem"],
    )
    key: LoginPath | None = Field(
        default=None,
        description="PEM file of its private key, readable for you alone.",
        examples=["~/certs/me.key"],
    )


class Drmaa(Part):
    """The DRMAA library."""

    library: LoginPath | None = Field(
        default=None,
        description="Path of `libdrmaa.so`; left out: the variable `DRMAA_LIBRARY_PATH`, else the "
        "system's.",
        examples=["/opt/slurm-drmaa/lib/libdrmaa.so.1"],
    )
    gres_prefix: Literal["gres:", "gres/", ""] = Field(
        default="gres:",
        description="What slurm-drmaa must put before `gpu:…`, since it hands the value to Slurm "
        "as it is: `gres:` for Slurm 22.05, `gres/` for newer ones that refuse it.",
    )


class Accounting(Part):
    """Where endings can be looked up after the scheduler forgot the job."""

    mode: Literal["slurmdbd", "qacct", "none"] | None = Field(
        default=None,
        description="`none` where `sacct` (of Grid Engine `qacct`) has no data: then only the "
        "live queue and the job's own record are asked. Left out: `slurmdbd`, or `qacct` with "
        "scheduler `gridengine`.",
    )
    wait: Seconds = Field(
        default=120.0, description="How long accounting may lag behind the live queue."
    )
    outage: Seconds = Field(
        default=3600.0,
        description="How long accounting that does not answer is waited for, where the job has "
        "left its record and the live queue has forgotten it; then the record alone decides.",
    )


class Polling(Part):
    """How often the scheduler is asked."""

    floor: Period = Field(default=10.0, description="Shortest time between two looks.")
    ceiling: Period = Field(default=60.0, description="Longest time between two looks.")


def _all_cpus() -> int:
    return len(os.sched_getaffinity(0))


def _all_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class Local(Part):
    """This machine, for the scheduler ``local``."""

    cpus: Count = Field(
        default_factory=_all_cpus, description="CPUs to hand out; left out: all of this machine."
    )
    memory: Memory = Field(
        default_factory=_all_memory,
        description="Memory to hand out; left out: all of this machine.",
    )
    gpus: tuple[Device, ...] = Field(
        default=(),
        description="GPUs to hand out, each to one job at a time, as `CUDA_VISIBLE_DEVICES` names "
        "them; left out: none.",
        examples=["0", "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"],
    )
    gpu_memory: Memory | None = Field(
        default=None,
        description="Memory of each of them, the smallest's; needed with `local.gpus`.",
        examples=["24G"],
    )
    gpu_vendor: Literal["nvidia", "amd"] = Field(
        default="nvidia",
        description="Whose they are; jobs find theirs in `CUDA_VISIBLE_DEVICES` or "
        "`ROCR_VISIBLE_DEVICES`.",
    )
