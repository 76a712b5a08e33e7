"""``hpcrunner image``: the site's container images, filled and looked at by hand."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from hpcrunner.cli.common import DEFAULT_SITE, AsJson, SiteName, chosen_site, print_json
from hpcrunner.cli.table import console, words_table
from hpcrunner.errors import HpcrunnerError
from hpcrunner.images.bounds import IMAGE, MARK
from hpcrunner.images.cache import Entry, cached_images, images_folder
from hpcrunner.images.ready import ready_image
from hpcrunner.request.trust import named_image
from hpcrunner.request.units import format_bytes, format_duration
from hpcrunner.sites.node_setup import image_rules, node_setup, store_rules
from hpcrunner.sites.site import Site
from hpcrunner.usemark import marked_at, touch_mark

app = typer.Typer(no_args_is_help=True, help="Container images in the site's cache.")


class NoContainers(HpcrunnerError):
    """The site runs no containers, so it has no images."""

    exit_code = 78  # EX_CONFIG


@app.command("pull")
def pull(
    reference: Annotated[
        str, typer.Argument(help="The image, as a request names it: docker://…, s3://…, a file.")
    ],
    site: SiteName = DEFAULT_SITE,
    anew: Annotated[
        bool, typer.Option("--anew", help="Pull it even if it is there already.")
    ] = False,
) -> None:
    """Pull an image into the site's cache, as a job that needs it would; print its path.

    By the site's rules: trusted, pinned, signed. Other jobs that want it meanwhile wait for it.
    """
    chosen = _with_containers(site)
    image = named_image(reference, image_rules(chosen), store_rules(chosen))
    path = ready_image(
        image,
        node_setup(chosen, 0),
        os.environ,
        lambda _, text: typer.echo(text, err=True),
        mark=touch_mark,
        anew=anew,
    )
    typer.echo(path)


@app.command("list")
def list_(site: SiteName = DEFAULT_SITE, json_: AsJson = False) -> None:
    """List the images of the site's cache: size, when pulled and last used."""
    chosen = _with_containers(site)
    folder = images_folder(node_setup(chosen, 0), os.environ)
    rows = [_row(folder, entry) for entry in cached_images(folder)]
    if json_:
        print_json(rows)
        return
    now = time.time()
    console.print(
        words_table(
            ("IMAGE", "SIZE", "PULLED", "USED", "FILE"),
            [
                (
                    row["reference"],
                    format_bytes(row["size"]),
                    _ago(now - row["pulled"]),
                    _ago(now - row["used"]),
                    row["file"],
                )
                for row in rows
            ],
        )
    )
    total = sum({row["file"]: row["size"] for row in rows}.values())
    most = chosen.container.cache_size
    typer.echo(f"{format_bytes(total)} of {format_bytes(most)} in {folder}")


def _with_containers(name: str) -> Site:
    site = chosen_site(name, "")
    if site.container.runtime == "none":
        raise NoContainers(
            "runs no containers",
            where=f"site {site.name}",
            remedy="set container.runtime in the site file",
        )
    return site


def _row(folder: Path, entry: Entry) -> dict[str, Any]:
    file = folder / entry.image
    return {
        "reference": entry.reference,
        "file": entry.image.removesuffix(IMAGE)[:12],
        "sha256": entry.image.removesuffix(IMAGE),
        "size": file.stat().st_size,
        "pulled": entry.pulled,
        "used": marked_at(file.with_suffix(MARK), entry.pulled),
    }


def _ago(seconds: float) -> str:
    return f"{format_duration(max(0.0, round(seconds)))} ago"
