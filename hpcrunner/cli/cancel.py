"""``hpcrunner cancel``: end experiments, waiting or running."""

from __future__ import annotations

from typing import Annotated

import typer

from hpcrunner.cli.common import DEFAULT_SITE, SiteName, SpoolPath, chosen_site
from hpcrunner.cli.filters import KeyFilter, OwnerFilter, ProjectFilter, QueueFilter, StateFilter
from hpcrunner.gateway.assemble import spool_of
from hpcrunner.gateway.by_hand import look, refresh
from hpcrunner.gateway.selection import Selection, SelectionInvalid
from hpcrunner.gateway.spool import Verb
from hpcrunner.gateway.view import choose


def cancel(
    experiments: Annotated[
        list[str] | None, typer.Argument(help="Ids, starts of ids, or the client's keys.")
    ] = None,
    site: SiteName = DEFAULT_SITE,
    spool: SpoolPath = "",
    queue: QueueFilter = "",
    owner: OwnerFilter = "",
    project: ProjectFilter = "",
    match: KeyFilter = "",
    state: StateFilter = None,
    everything: Annotated[bool, typer.Option("--all", help="All that have not ended.")] = False,
) -> None:
    """Cancel experiments, by name or all that the filters hold for.

    What they have made so far is saved; ended ones stay as they are. The wish is kept, and asked
    of the scheduler, until they have ended.
    """
    chosen = chosen_site(site, spool)
    selection = Selection(queue, owner, project, match, state or ())
    if not experiments and not selection and not everything:
        raise SelectionInvalid(
            "nothing is named", where="hpcrunner cancel", remedy="give ids, a filter, or --all"
        )
    with look(chosen) as journal:
        if experiments:
            found = selection.of(choose(journal, name) for name in experiments)
        else:
            found = selection.of(journal.live())
    spool_of(chosen).wish(Verb.CANCEL, (e.id for e in found if not e.state.final))
    refresh(chosen)
    for e in found:
        said = f"is {e.state.value} already" if e.state.final else "will be cancelled"
        typer.echo(f"{e.id} {said}")
    if not found:
        typer.echo("none of the experiments that have not ended is meant")
