"""``hpcrunner cancel``: end experiments, waiting or running."""

from __future__ import annotations

from typing import Annotated

import typer

from hpcrunner.cli.common import DEFAULT_SITE, SiteName, SpoolPath, chosen_site
from hpcrunner.gateway.assemble import spool_of
from hpcrunner.gateway.by_hand import look, refresh
from hpcrunner.gateway.view import choose


def cancel(
    experiments: Annotated[
        list[str], typer.Argument(help="Ids, starts of ids, or the client's keys.")
    ],
    site: SiteName = DEFAULT_SITE,
    spool: SpoolPath = "",
) -> None:
    """Cancel experiments. What they have made so far is saved; ended ones stay as they are."""
    chosen = chosen_site(site, spool)
    with look(chosen) as journal:
        found = [choose(journal, name) for name in experiments]
    spool_of(chosen).ask_cancel(e.id for e in found if not e.state.final)
    refresh(chosen)
    for e in found:
        said = f"is {e.state.value} already" if e.state.final else "will be cancelled"
        typer.echo(f"{e.id} {said}")
