"""``hpcrunner status``: what became of the experiments."""

from __future__ import annotations

from typing import Annotated

import typer

from hpcrunner.cli.common import (
    DEFAULT_SITE,
    AsJson,
    SiteName,
    SpoolPath,
    chosen_site,
    print_json,
)
from hpcrunner.cli.filters import (
    KeyFilter,
    OwnerFilter,
    ProjectFilter,
    QueueFilter,
    StateFilter,
)
from hpcrunner.cli.options import option
from hpcrunner.cli.table import console, details_text, experiments_table
from hpcrunner.gateway.assemble import spool_of
from hpcrunner.gateway.by_hand import look, refresh
from hpcrunner.gateway.drained import mark_of
from hpcrunner.gateway.lock import holder_of
from hpcrunner.gateway.selection import Selection
from hpcrunner.gateway.view import choose, details, summary

_LOOKED_THROUGH = 100_000  # experiments, by a selection


def status(
    experiments: Annotated[
        list[str] | None,
        typer.Argument(help="Ids, starts of ids, or the client's keys; default: the latest."),
    ] = None,
    site: SiteName = DEFAULT_SITE,
    spool: SpoolPath = "",
    most: Annotated[int, option("--most", "How many to list.", "-n", min=1)] = 30,
    queue: QueueFilter = "",
    owner: OwnerFilter = "",
    project: ProjectFilter = "",
    match: KeyFilter = "",
    state: StateFilter = None,
    json_: AsJson = False,
) -> None:
    """List the latest experiments, of all or those that are meant, or tell all there is to know
    of some.
    """
    selection = Selection(queue, owner, project, match, state or ())
    chosen = chosen_site(site, spool)
    folder = spool_of(chosen)
    refresh(chosen)
    with look(chosen) as journal:
        if experiments:
            told = [details(folder, journal, choose(journal, name)) for name in experiments]
            if json_:
                print_json(told)
            else:
                for one in told:
                    console.print(details_text(one), soft_wrap=True, markup=False, highlight=False)
            return
        rows = journal.recent(_LOOKED_THROUGH if selection else most)
        rows = selection.of(rows)[-most:]
    if json_:
        print_json([summary(e) for e in rows])
        return
    holder = holder_of(folder.lock)
    mark = mark_of(folder)
    if mark is not None:
        console.print(mark.words(), markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"gateway: {holder or 'none is running on this spool'}", markup=False, highlight=False
    )
    console.print(experiments_table(rows))
