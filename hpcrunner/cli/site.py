"""``hpcrunner site``: the site files there are."""

from __future__ import annotations

from typing import Annotated

import typer

from hpcrunner.batch.script import check_templates
from hpcrunner.sites.load import load_site, site_file, site_names

app = typer.Typer(no_args_is_help=True, help="List, show and check site files.")


@app.command("list")
def list_() -> None:
    """The names of the sites that --site takes: your own and the shipped ones."""
    for name in site_names():
        typer.echo(f"{name:<24} {load_site(name).description}")


@app.command()
def show(name: Annotated[str, typer.Argument(help="A site's name or file.")]) -> None:
    """Print a site file as it stands: the start of one of your own."""
    typer.echo(site_file(name).read_text(encoding="utf-8"), nl=False)


@app.command()
def check(name: Annotated[str, typer.Argument(help="A site's name or file.")]) -> None:
    """Read a site file and say whether it is sound; every mistake is one line."""
    site = load_site(name)
    check_templates(site)
    typer.echo(f"{site_file(name)}: sound ({len(site.partitions)} partition(s))")
