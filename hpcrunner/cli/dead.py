"""``hpcrunner dead``: experiments that ended otherwise than anybody wished."""

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
from hpcrunner.cli.filters import KeyFilter, OwnerFilter, ProjectFilter, QueueFilter, StateFilter
from hpcrunner.cli.keyoptions import ClearTextMessages, EncryptDir, RequestSignaturesDir
from hpcrunner.cli.table import console, details_text, experiments_table
from hpcrunner.gateway.assemble import spool_of
from hpcrunner.gateway.by_hand import look, refresh
from hpcrunner.gateway.experiment import Experiment
from hpcrunner.gateway.selection import Selection, SelectionInvalid
from hpcrunner.gateway.spool import Verb
from hpcrunner.gateway.view import NoSuchExperiment, choose_from, details, summary
from hpcrunner.keys.options import KeyOptions
from hpcrunner.sites.site import Site

app = typer.Typer(
    no_args_is_help=True,
    help="The dead list: experiments that were rejected, failed or got lost, until somebody "
    "retries or drops them.",
)

Names = Annotated[
    list[str] | None, typer.Argument(help="Ids, starts of ids, or the client's keys.")
]
All = Annotated[bool, typer.Option("--all", help="All of the dead list.")]


@app.command("list")
def list_(
    site: SiteName = DEFAULT_SITE,
    spool: SpoolPath = "",
    queue: QueueFilter = "",
    owner: OwnerFilter = "",
    project: ProjectFilter = "",
    match: KeyFilter = "",
    state: StateFilter = None,
    json_: AsJson = False,
) -> None:
    """List the dead list, oldest first, with the reason of each."""
    chosen = chosen_site(site, spool)
    refresh(chosen)
    with look(chosen) as journal:
        found = Selection(queue, owner, project, match, state or ()).of(journal.aside())
    if json_:
        print_json([summary(e) for e in found])
    elif found:
        console.print(experiments_table(found))
    else:
        typer.echo("the dead list is empty")


@app.command("show")
def show(
    experiments: Annotated[list[str], typer.Argument(help="Ids, starts of ids, or keys.")],
    site: SiteName = DEFAULT_SITE,
    spool: SpoolPath = "",
    json_: AsJson = False,
) -> None:
    """Tell all there is to know of some, every attempt included."""
    chosen = chosen_site(site, spool)
    with look(chosen) as journal:
        aside = journal.aside()
        told = [
            details(spool_of(chosen), journal, choose_from(_named(aside, name), name))
            for name in experiments
        ]
    if json_:
        print_json(told)
        return
    for one in told:
        console.print(details_text(one), soft_wrap=True, markup=False, highlight=False)


@app.command("retry")
def retry(
    experiments: Names = None,
    site: SiteName = DEFAULT_SITE,
    spool: SpoolPath = "",
    queue: QueueFilter = "",
    owner: OwnerFilter = "",
    project: ProjectFilter = "",
    match: KeyFilter = "",
    state: StateFilter = None,
    everything: All = False,
    encrypt_dir: EncryptDir = "",
    request_signatures_dir: RequestSignaturesDir = "",
    clear_text_messages: ClearTextMessages = None,
) -> None:
    """Run some again, with fresh budgets, by the site's file as it is now.

    Each becomes a new experiment of the same key with the next attempt's number; the ending of
    the old one stays as it was. A message that was refused is opened and judged anew: by the
    gateway where one runs, else with the keys named here.
    """
    chosen = chosen_site(site, spool)
    selection = Selection(queue, owner, project, match, state or ())
    found = _wish(Verb.RETRY, chosen, experiments, selection, everything=everything)
    refresh(
        chosen,
        KeyOptions(
            encrypt_dir=encrypt_dir,
            request_signatures_dir=request_signatures_dir,
            clear_text=clear_text_messages,
        ),
    )
    with look(chosen) as journal:
        for e in found:
            (now,) = (n for n in journal.find(e.id) if n.id == e.id)
            if now.retried_as:
                typer.echo(f"{e.id} runs again as {now.retried_as}")
                continue
            said = journal.history(e.id)[-1][2]
            refused = "could not be retried" in said
            typer.echo(f"{e.id} {said if refused else 'will run again'}")


@app.command("drop")
def drop(
    experiments: Names = None,
    site: SiteName = DEFAULT_SITE,
    spool: SpoolPath = "",
    queue: QueueFilter = "",
    owner: OwnerFilter = "",
    project: ProjectFilter = "",
    match: KeyFilter = "",
    state: StateFilter = None,
    everything: All = False,
) -> None:
    """Take some off the list; 'hpcrunner status' still knows them until they age out."""
    chosen = chosen_site(site, spool)
    selection = Selection(queue, owner, project, match, state or ())
    found = _wish(Verb.DROP, chosen, experiments, selection, everything=everything)
    refresh(chosen)
    for e in found:
        typer.echo(f"{e.id} dropped")


def _wish(
    verb: Verb, site: Site, names: list[str] | None, selection: Selection, *, everything: bool
) -> list[Experiment]:
    """Wish that of those that are meant. Raises SelectionInvalid, NoSuchExperiment."""
    if not names and not selection and not everything:
        raise SelectionInvalid(
            "nothing is named", where="hpcrunner dead", remedy="give ids, a filter, or --all"
        )
    with look(site) as journal:
        aside = journal.aside()
    if names:
        aside = [choose_from(_named(aside, name), name) for name in names]
    found = selection.of(aside)
    if not found:
        raise NoSuchExperiment(
            "none of the dead list is meant", remedy="'hpcrunner dead list' shows those there are"
        )
    spool_of(site).wish(verb, (e.id for e in found))
    return found


def _named(aside: list[Experiment], name: str) -> list[Experiment]:
    return [e for e in aside if e.key == name or e.id.startswith(name)]
