"""What a site with Grid Engine says about itself: the names of its resources, and its options.

Grid Engine (qsub(1), complex(5), sge_pe(5)) names nothing itself: which resource is memory, which
is GPUs, and what gives a job several slots on one host, is for each site to choose.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hpcrunner.sites.part import Part
from hpcrunner.sites.values import Allowed, SlurmName, Switch

_RESOURCE = "^[A-Za-z_][A-Za-z0-9_.]*$"


def _resource(value: str) -> str:
    if not re.fullmatch(_RESOURCE, value):
        raise ValueError
    return value


Resource = Annotated[
    str,
    AfterValidator(_resource),
    Allowed("a resource's name of letters, digits and _ .", _RESOURCE),
]
Priority = Annotated[int, Field(ge=-1023, le=1024), Allowed("a whole number from -1023 to 1024")]
Per = Literal["slot", "job"]


class GridEngine(Part):
    """How jobs are asked for, with ``scheduler: gridengine``."""

    parallel_environment: SlurmName = Field(
        default="smp",
        description="Parallel environment that gives a job of several CPUs all its slots on one "
        "host: `allocation_rule $pe_slots` in `qconf -sp NAME`; `qconf -spl` lists them.",
        examples=["shared"],
    )
    queue_named: Switch = Field(
        default=True,
        description="Whether a partition's name is that of a queue and asked for with `-q`; false "
        "where the site finds the queue by what a job asks for, so that the name is for people.",
    )
    memory_resources: tuple[Resource, ...] = Field(
        default=("h_vmem",),
        description="Resources that a job's memory is asked for with, each with the same amount; "
        "none: memory is not asked for.",
        examples=["mem_free", "h_vmem"],
    )
    memory_per: Per = Field(
        default="slot",
        description="Whether that amount is for each slot (`consumable YES` in `qconf -sc`) or "
        "for the job (`JOB`).",
    )
    gpu_resource: Resource = Field(
        default="gpu",
        description="Resource that GPUs are asked for with.",
        examples=["gpus", "ngpus"],
    )
    gpu_type_resource: Resource | None = Field(
        default=None,
        description="Resource that `type` of a GPU is asked for with; left out: the type is not "
        "said.",
        examples=["gpu_type"],
    )
    gpus_per: Per = Field(
        default="job",
        description="Whether GPUs are counted for the job or for each slot. By slot, a job with "
        "more CPUs than GPUs cannot be asked for, and is refused.",
    )
    tmp_resource: Resource | None = Field(
        default=None,
        description="Resource that `hdd` of the request is asked for with, where `tmp` is true.",
        examples=["tmpfs"],
    )
    priority: Priority = Field(
        default=0, description="Priority of the jobs (`-p`); users may lower it only."
    )


# Options of qsub that a site may give, and what may follow them.
_WORD = r"[^\s\"'`\\;|&<>()$!*?]+"
_OPTIONS = {
    "-l": rf"{_WORD}(=\S+)?(,{_WORD}(=\S+)?)*",
    "-ac": rf"{_WORD}=?\S*",
    "-ar": r"\d+",
    "-binding": _WORD,
    "-jc": _WORD,
    "-js": r"\d+",
    "-R": "[yn]",
}
# What hpcrunner says itself, by option or, of -l, by resource.
_OURS = {
    "-N": "the name is how a lost submission is found again",
    "-P": "use the key account",
    "-p": "use the key gridengine.priority",
    "-pe": "use the key gridengine.parallel_environment",
    "-q": "use the key partitions",
    "-r": "use the key requeue",
    "-t": "hpcrunner makes the arrays",
    "-V": "use the key environment",
    "-v": "use the key environment",
}
_OUR_RESOURCES = {
    **dict.fromkeys(("h_rt", "s_rt"), "use defaults.time_limit and partitions.max_time"),
    **dict.fromkeys(
        ("h", "hostname"), "hosts are excluded by hpcrunner; name some as queue@host in partitions"
    ),
}
_RESOURCES = re.compile(r"(?:^-l |,)([A-Za-z_][A-Za-z0-9_.]*)")


def is_option(word: str) -> bool:
    """Whether a directive is in Grid Engine's words: one dash."""
    return re.match(r"-[A-Za-z]", word) is not None


def check_option(word: str) -> str:
    """The word, if a site may give it. Raises ValueError with the reason if not."""
    name, _, value = word.partition(" ")
    if name not in _OPTIONS:
        reason = _OURS.get(name, f"a site may give {', '.join(_OPTIONS)}")
        raise ValueError(f"not a long option (--name or --name=value); of Grid Engine's: {reason}")
    if re.search(r"[\x00-\x1f\x7f\"'`\\]", value) or not re.fullmatch(_OPTIONS[name], value):
        raise ValueError(f"{name} with a value that cannot be carried")
    for resource in _RESOURCES.findall(word) if name == "-l" else ():
        if why := _OUR_RESOURCES.get(resource):
            raise ValueError(f"-l {resource}: {why}")
    return word


def resources_named(word: str) -> tuple[str, ...]:
    """The resources that an ``-l`` asks for; none for another option."""
    return tuple(_RESOURCES.findall(word)) if word.startswith("-l ") else ()
