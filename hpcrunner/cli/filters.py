"""The options that choose experiments by what they are; several commands share them.

Not by environment variables: a PROJECT that happens to be set must not choose what is cancelled.
"""

from __future__ import annotations

from typing import Annotated

import typer

QueueFilter = Annotated[str, typer.Option("--queue", help="Those of this queue.")]
OwnerFilter = Annotated[str, typer.Option("--owner", help="Those of this owner.")]
ProjectFilter = Annotated[str, typer.Option("--project", help="Those of this project.")]
KeyFilter = Annotated[
    str,
    typer.Option(
        "--match", help="Those in whose key this regular expression is found.", metavar="REGEX"
    ),
]
StateFilter = Annotated[
    list[str] | None, typer.Option("--state", help="Those in this state. May be repeated.")
]
