"""What is wrong between keys of a site that are right by themselves. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpcrunner.sites.container import in_container
from hpcrunner.sites.directives import drmaa_refuses
from hpcrunner.sites.gpus import constraint_of, gpu_mistakes
from hpcrunner.sites.gridengine import is_option
from hpcrunner.sites.gridengine_rules import contradictions as in_scheduler
from hpcrunner.sites.parts import Partition

if TYPE_CHECKING:  # a Site asks this module about itself
    from hpcrunner.sites.site import Site

Contradiction = tuple[tuple[str | int, ...], str]


def contradictions(site: Site) -> list[Contradiction]:
    """A pair for each: the place in the file, and one line."""
    found: list[Contradiction] = []
    if (site.s3.cert is None) != (site.s3.key is None):
        missing = "key" if site.s3.cert else "cert"
        found.append((("s3",), f"{missing} missing: a client certificate needs both"))
    if site.polling.ceiling < site.polling.floor:
        found.append((("polling", "ceiling"), "less than polling.floor"))
    if site.scheduler == "local" and site.partitions:
        found.append((("partitions",), "the local scheduler has none; use the key local"))
    wanted = site.defaults.time_limit
    longest = [p.max_time for p in site.partitions]
    if wanted and longest and all(most is not None and most < wanted for most in longest):
        found.append((("defaults", "time_limit"), "longer than every partition's max_time"))
    for index, partition in enumerate(site.partitions):
        place = ("partitions", index)
        if partition.gpus_only and not partition.gpus:
            found.append(((*place, "gpus_only"), "true for a partition without gpus"))
        found += _in_gpus(site, place, partition)
        found += _lost_on_drmaa(site, (*place, "directives"), partition.directives)
    found += _lost_on_drmaa(site, ("directives",), site.directives)
    found += _in_rules(site)
    found += [(place, text) for place, text in in_container(site.container)]
    found += in_scheduler(site)
    local = site.local
    if local.gpus and local.gpu_memory is None:
        found.append((("local", "gpu_memory"), "missing: local.gpus needs it"))
    found += [
        (("local", "gpus", number), f"{device!r} stands twice")
        for number, device in enumerate(local.gpus)
        if device in local.gpus[:number]
    ]
    return found


def _in_gpus(site: Site, place: tuple[str | int, ...], partition: Partition) -> list[Contradiction]:
    neighbours = [g for p in site.partitions if p.name == partition.name for g in p.gpus]
    directives = site.directives + partition.directives
    found = []
    for words in [directives, *(directives + rule.directives for rule in site.rules)]:
        for number, key, text in gpu_mistakes(partition.gpus, neighbours, constraint_of(words)):
            mistake: Contradiction = ((*place, "gpus", number, key), text)
            if mistake not in found:
                found.append(mistake)
    return found


def _in_rules(site: Site) -> list[Contradiction]:
    found: list[Contradiction] = []
    names = [rule.name for rule in site.rules]
    there = {partition.name for partition in site.partitions}
    for index, rule in enumerate(site.rules):
        place = ("rules", index)
        if rule.name in names[:index]:
            found.append(((*place, "name"), f"{rule.name!r} stands twice"))
        found += [
            ((*place, "partitions", number), f"{name!r} is none of the site's partitions")
            for number, name in enumerate(rule.partitions)
            if name not in there
        ]
        found += _lost_on_drmaa(site, (*place, "directives"), rule.directives)
    return found


def _lost_on_drmaa(
    site: Site, place: tuple[str | int, ...], directives: tuple[str, ...]
) -> list[Contradiction]:
    if site.scheduler != "drmaa":
        return []
    return [
        ((*place, index), f"{line}; allowed with scheduler: sbatch")
        for index, word in enumerate(directives)
        if not is_option(word)
        for line in drmaa_refuses((word,))
    ]
