"""What a site still needs before it can be used: keys that only each user knows."""

from __future__ import annotations

from collections.abc import Iterator

from hpcrunner.sites.problems import SiteError
from hpcrunner.sites.site import Site


def check_needs(site: Site) -> None:
    """Raise SiteError, with a line for each of the site's ``needs`` that nothing sets."""
    problems = [
        f"site {site.name}: {key} is not set, and this cluster takes no job without; write a file "
        f"of your own with 'extends: {site.name}' and '{key}: …' (docs/sites.md)"
        for key in unmet(site)
    ]
    if problems:
        raise SiteError(problems)


def unmet(site: Site) -> tuple[str, ...]:
    """Those of the site's ``needs`` that are not set for every job."""
    return tuple(key for key in site.needs if not all(_values(site, key)))


def _values(site: Site, key: str) -> Iterator[str | None]:
    """The key's value for every kind of job: the site's own, or those of rules or partitions."""
    own = getattr(site, key)
    if own or not (site.partitions or site.rules):
        yield own
        return
    partitions = [getattr(partition, key) for partition in site.partitions]
    if partitions and all(partitions):
        return
    rules = [getattr(rule, key) for rule in site.rules if rule.allowed]
    yield from rules or partitions
