"""``hpcrunner keys``: make a key pair for requests, and see which keys a gateway would use."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from hpcrunner.cli.common import AsJson, print_json
from hpcrunner.cli.keyoptions import EncryptDir, RequestSignaturesDir, ResponseSignaturesDir
from hpcrunner.keys.keyring import keyring_from
from hpcrunner.keys.options import KeyOptions

app = typer.Typer(no_args_is_help=True, help="Keys for sealed messages: docs/sealed-messages.md.")


@app.command()
def make(
    folder: Annotated[Path, typer.Argument(help="The gateway's --encrypt-dir.")],
    name: Annotated[
        str, typer.Option("--name", help="Tells it from the keys that are there already: 2027.")
    ] = "",
) -> None:
    """Make an RSA key pair of 4096 bits, and print the path of its public half.

    That file goes to the clients (public_key_path of their encryption section).
    """
    from hpcrunner.keys.make import make_request_key

    _, public = make_request_key(folder.expanduser().absolute(), name)
    typer.echo(public)


@app.command()
def show(
    encrypt_dir: EncryptDir = "",
    request_signatures_dir: RequestSignaturesDir = "",
    response_signatures_dir: ResponseSignaturesDir = "",
    json_: AsJson = False,
) -> None:
    """List the keys of these folders with their fingerprints, or why one cannot be used."""
    from hpcrunner.keys.show import shown_keys

    logging.getLogger("hpcrunner.keys").addHandler(logging.NullHandler())  # the list tells it
    keyring = keyring_from(
        KeyOptions(
            encrypt_dir=encrypt_dir,
            request_signatures_dir=request_signatures_dir,
            response_signatures_dir=response_signatures_dir,
        )
    )
    found = shown_keys(keyring)
    if json_:
        print_json(found)
        return
    if not found:
        typer.echo("no keys; name the folders, such as --encrypt-dir")
    for key in found:
        told = key["trouble"] or f"{key['kind']}  {key['fingerprint']}"
        typer.echo(f"{key['use']:<9} {key['file']:<24} {told}")
