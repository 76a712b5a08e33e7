"""``hpcrunner logs``: the output of one experiment."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hpcrunner.cli.common import DEFAULT_SITE, SiteName, SpoolPath, chosen_site
from hpcrunner.cli.options import option
from hpcrunner.gateway.assemble import spool_of
from hpcrunner.gateway.by_hand import follow, look
from hpcrunner.gateway.view import choose


def logs(
    experiment: Annotated[str, typer.Argument(help="An id, its start, or the client's key.")],
    site: SiteName = DEFAULT_SITE,
    spool: SpoolPath = "",
    follow_: Annotated[
        bool, option("--follow", "Go on as it grows, until the experiment ends.", "-f")
    ] = False,
) -> None:
    """Print what an experiment printed, with the job side's notes ('hpcrunner: …') among it."""
    chosen = chosen_site(site, spool)
    with look(chosen) as journal:
        found = choose(journal, experiment)
        for piece in follow(spool_of(chosen), journal, found, wait=follow_):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
