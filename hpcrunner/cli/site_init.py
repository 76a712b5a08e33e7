"""``hpcrunner site init``: a first site file from what the cluster says of itself."""

from __future__ import annotations

from typing import Annotated

import typer

from hpcrunner.doctor.edge import Edge
from hpcrunner.doctor.first_site import already, place_of, write_site
from hpcrunner.doctor.slurm.draft import draft, file_name
from hpcrunner.doctor.slurm.facts import ask_all


def init(
    name: Annotated[
        str, typer.Argument(help="The site's name, or a file; left out: the cluster's name.")
    ] = "",
    print_: Annotated[
        bool, typer.Option("--print", help="Print the file and write nothing.")
    ] = False,
) -> None:
    """Write a first site file from what Slurm says here, with a CHECK where a person must look.

    It goes into your own folder of sites, and never over a file that is there.
    """
    edge = Edge()
    path = place_of(name) if name else None
    if path is not None and path.exists() and not print_:
        raise already(path)
    facts = ask_all(edge)
    if not facts.has("settings"):
        raise facts.troubles["settings"]
    path = path or place_of(file_name(facts))
    found = {runtime: edge.find(runtime) for runtime in ("apptainer", "singularity")}
    shown = str(path) if "/" in name or name.endswith((".yaml", ".yml")) else path.stem
    text = draft(facts, path.stem, shown, found)
    if print_:
        typer.echo(text, nl=False)
        return
    write_site(path, text)
    typer.echo(f"{path}: written. Look at each CHECK in it, then: hpcrunner doctor --site {shown}")
