"""Options and small talk that several commands share."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

from hpcrunner.cli.options import option
from hpcrunner.sites.load import load_site, with_spool
from hpcrunner.sites.needs import check_needs
from hpcrunner.sites.site import Site

SiteName = Annotated[
    str,
    option("--site", "The site: a name ('hpcrunner site list') or a YAML file.", "-s"),
]
SpoolPath = Annotated[
    str,
    option("--spool", "Use this spool folder instead of the site's.", metavar="FOLDER"),
]
AsJson = Annotated[bool, option("--json", "Print JSON for a machine to read.")]
DEFAULT_SITE = "local"


def chosen_site(name: str, spool: str) -> Site:
    """The site of that name or file, with the spool of the command line if one is given.

    Raises SiteError, also for a site that cannot be used before its user has set more.
    """
    site = load_site(name)
    check_needs(site)
    if not spool:
        return site
    given = Path(spool).expanduser()
    return with_spool(site, spool if spool.startswith("$") else str(given.absolute()))


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")
