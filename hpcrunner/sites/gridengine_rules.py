"""What contradicts itself in a site file about the kind of scheduler it is for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hpcrunner.sites.gridengine import GridEngine, is_option, resources_named

if TYPE_CHECKING:
    from hpcrunner.sites.site import Site

Place = tuple[str | int, ...]
_SCHEDULER = "gridengine"


def contradictions(site: Site) -> Iterator[tuple[Place, str]]:
    """The place and one line of each."""
    if site.scheduler == _SCHEDULER:
        yield from _foreign(site)
        yield from _own(site)
    else:
        yield from _without(site)


def _foreign(site: Site) -> Iterator[tuple[Place, str]]:
    """Keys that speak of Slurm."""
    instead: dict[Place, tuple[bool, str]] = {
        ("gpu_syntax",): (site.gpu_syntax != "gres", "use gridengine.gpu_resource"),
        ("memory_syntax",): (site.memory_syntax != "mem", "use gridengine.memory_resources"),
        ("qos",): (site.qos is not None, "Grid Engine has none"),
        ("export",): (site.export != "NONE", "no environment is ever exported"),
        ("accounting", "mode"): (site.accounting.mode == "slurmdbd", "qacct or none"),
    }
    for place, (there, text) in instead.items():
        if there:
            yield place, f"not with scheduler gridengine: {text}"
    for index, partition in enumerate(site.partitions):
        if partition.qos is not None:
            yield ("partitions", index, "qos"), "not with scheduler gridengine: it has none"
        for number, gpu in enumerate(partition.gpus):
            at: Place = ("partitions", index, "gpus", number)
            if gpu.constraint is not None:
                text = "use the partition's directives with -l"
                yield (*at, "constraint"), f"not with scheduler gridengine: {text}"
            if gpu.shards:
                yield (*at, "shards"), "not with scheduler gridengine: it has none"
    for index, rule in enumerate(site.rules):
        if rule.qos is not None:
            yield ("rules", index, "qos"), "not with scheduler gridengine: it has none"
    for at, words in _directives(site):
        for number, word in enumerate(words):
            if not is_option(word):
                text = f"{word!r} is an option of sbatch; Grid Engine's begin with one dash"
                yield (*at, number), text


def _own(site: Site) -> Iterator[tuple[Place, str]]:
    names = site.gridengine
    if site.tmp and names.tmp_resource is None:
        yield ("tmp",), "true without gridengine.tmp_resource"
    said: dict[str | None, str] = {
        **dict.fromkeys(names.memory_resources, "use defaults.memory"),
        names.gpu_resource: "use partitions.gpus",
        names.gpu_type_resource: "use partitions.gpus",
        names.tmp_resource: "use the key tmp",
    }
    for at, words in _directives(site):
        for number, word in enumerate(words):
            for resource in resources_named(word):
                if instead := said.get(resource):
                    yield (*at, number), f"-l {resource}: {instead}"


def _without(site: Site) -> Iterator[tuple[Place, str]]:
    if site.gridengine != GridEngine():
        yield ("gridengine",), "only with scheduler: gridengine"
    if site.accounting.mode == "qacct":
        yield ("accounting", "mode"), "qacct only with scheduler: gridengine"
    for at, words in _directives(site):
        for number, word in enumerate(words):
            if is_option(word):
                yield (*at, number), f"{word!r} is an option of Grid Engine's"


def _directives(site: Site) -> Iterator[tuple[Place, tuple[str, ...]]]:
    yield ("directives",), site.directives
    for index, partition in enumerate(site.partitions):
        yield ("partitions", index, "directives"), partition.directives
    for index, rule in enumerate(site.rules):
        yield ("rules", index, "directives"), rule.directives
