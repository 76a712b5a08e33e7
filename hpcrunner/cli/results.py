"""``hpcrunner results``: what an experiment has saved, fetched from its store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hpcrunner.cli.common import DEFAULT_SITE, SiteName, SpoolPath, chosen_site
from hpcrunner.client.results import NoSuchArtifact, fetch_results, request_in
from hpcrunner.gateway.by_hand import look
from hpcrunner.gateway.view import choose
from hpcrunner.request.units import format_bytes
from hpcrunner.sites.node_setup import store_rules


def results(
    experiment: Annotated[str, typer.Argument(help="An id, its start, or the client's key.")],
    tags: Annotated[
        list[str] | None, typer.Argument(help="Artifacts, such as modeldir; default: all saved.")
    ] = None,
    site: SiteName = DEFAULT_SITE,
    spool: SpoolPath = "",
    to: Annotated[  # "TO" would be too common a name for an environment variable
        str,
        typer.Option("--to", help="Folder to make theirs in; default: the id.", metavar="FOLDER"),
    ] = "",
) -> None:
    """Fetch what an experiment has saved, each artifact into a folder of its name."""
    chosen = chosen_site(site, spool)
    with look(chosen) as journal:
        found = choose(journal, experiment)
        request = request_in(journal.message(found.id), f"experiment {found.id}")
    folder = Path(to or found.id)
    missing = []
    fetched = 0
    for tag, got in fetch_results(request, tags or (), folder, store_rules(chosen)):
        if got is None:
            missing.append(tag)
        else:
            fetched += 1
            typer.echo(f"{folder / tag} {format_bytes(got.bytes)}")
    if missing and fetched:
        sys.stderr.write(f"not saved: {', '.join(missing)}\n")
    if not fetched:
        raise NoSuchArtifact(
            "nothing has been saved", where=f"experiment {found.id}", remedy="has it ended?"
        )
