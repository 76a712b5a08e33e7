"""``hpcrunner render``: what a request would be submitted as, without submitting it."""

from __future__ import annotations

from pathlib import Path
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
from hpcrunner.cli.keyoptions import EncryptDir
from hpcrunner.client.request_file import read_request_file
from hpcrunner.gateway.preview import preview
from hpcrunner.gateway.spool import SUBMIT_QUEUE
from hpcrunner.keys.keyring import request_keys


def render(
    request: Annotated[Path, typer.Argument(help="A request: the JSON a client sends.")],
    site: SiteName = DEFAULT_SITE,
    spool: SpoolPath = "",
    encrypt_dir: EncryptDir = "",
    queue: Annotated[
        str, typer.Option("--queue", help="The queue it would come by, for the site's rules.")
    ] = SUBMIT_QUEUE,
    json_: AsJson = False,
) -> None:
    """Print the batch script, the DRMAA native specification and the plan, secrets masked.

    A sealed request is opened with the keys of --encrypt-dir; its signature is not looked at.
    """
    keys = request_keys(encrypt_dir)
    shown = preview(read_request_file(request), chosen_site(site, spool), keys, queue)
    if json_:
        print_json(shown)
        return
    typer.echo(shown["script"])
    typer.echo(f"# DRMAA native specification\n# {shown['native_specification']}")
    typer.echo("# plan\n" + "\n".join(f"# {line}" for line in shown["plan_text"].splitlines()))
