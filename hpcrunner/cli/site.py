"""``hpcrunner site``: the site files there are."""

from __future__ import annotations

from typing import Annotated

import typer

from hpcrunner.batch.script import check_templates
from hpcrunner.cli.common import AsJson, print_json
from hpcrunner.cli.table import console, words_table
from hpcrunner.errors import HpcrunnerError
from hpcrunner.sites.effective import differences, effective_yaml
from hpcrunner.sites.layers import read_layers
from hpcrunner.sites.listing import listed_sites
from hpcrunner.sites.load import load_site, site_file, site_names, validated
from hpcrunner.sites.needs import unmet
from hpcrunner.sites.problems import SiteError
from hpcrunner.sites.schema import schema_text

app = typer.Typer(no_args_is_help=True, help="List, show, check and compare site files.")
Name = Annotated[str, typer.Argument(help="A site's name or file.")]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """The sites that --site takes: your own, your institution's and the shipped ones."""
    sites = listed_sites()
    if as_json:
        print_json(
            [
                {
                    "name": site.name,
                    "from": site.owner,
                    "file": str(site.path),
                    "description": site.description,
                    "extends": [str(base) for base in site.bases],
                    "problems": list(site.problems),
                }
                for site in sites
            ]
        )
        return
    rows = [
        (site.name, site.owner, site.description if not site.problems else site.problems[0])
        for site in sites
    ]
    console.print(words_table(("SITE", "FROM", "DESCRIPTION"), rows))


@app.command()
def show(
    name: Name,
    defaults: Annotated[
        bool, typer.Option("--defaults", help="Also the keys that no file sets.")
    ] = False,
    origin: Annotated[
        bool, typer.Option("--origin", help="Say of each key where it comes from.")
    ] = False,
    source: Annotated[
        bool, typer.Option("--source", help="The file as it stands, with its comments.")
    ] = False,
) -> None:
    """Print a site after inheritance, as YAML: a site file that starts from nothing."""
    path = site_file(name)
    merged = read_layers(path)
    if source:
        typer.echo(path.read_text(encoding="utf-8"), nl=False)
        return
    site = validated(merged)
    typer.echo(effective_yaml(merged, site, defaults=defaults, origins=origin), nl=False)


@app.command()
def check(
    names: Annotated[
        list[str] | None, typer.Argument(help="Sites' names or files; left out: all.")
    ] = None,
) -> None:
    """Read site files and their templates and say whether they are sound, a line a mistake."""
    problems: list[str] = []
    for name in names or site_names():
        try:
            path = site_file(name)
            merged = read_layers(path)
            site = validated(merged)
            check_templates(site)
        except SiteError as error:
            problems += error.problems
        except HpcrunnerError as error:
            problems.append(error.line())
        else:
            bases = "".join(f", on {base}" for base in merged.files[1:])
            needs = f", needs {' and '.join(unmet(site))} of its user" if unmet(site) else ""
            typer.echo(f"{path}: sound ({len(site.partitions)} partition(s){bases}{needs})")
    if problems:
        raise SiteError(problems)


@app.command()
def diff(left: Name, right: Name, as_json: AsJson = False) -> None:
    """The keys in which two sites differ, after inheritance; ends with 1 where they do."""
    found = differences(load_site(left), load_site(right))
    if as_json:
        print_json([{"key": d.key, "left": d.left, "right": d.right} for d in found])
    elif found:
        rows = [(d.key, _shown(d.left), _shown(d.right)) for d in found]
        console.print(words_table(("KEY", left, right), rows))
    raise typer.Exit(1 if found else 0)


@app.command()
def schema() -> None:
    """Print the JSON schema of site files, which editors complete and check them with."""
    typer.echo(schema_text(), nl=False)


def _shown(value: str | None) -> str:
    return "not set" if value is None else value.replace("\n", "\\n") or '""'
