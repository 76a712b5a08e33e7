"""One way to declare an option: its environment variable follows from its name.

Upper case, dashes to underscores, as StudioML's runner has it (``--queue-match`` is also
``QUEUE_MATCH``); the command line wins.
"""

from __future__ import annotations

from typing import Any

import typer


def option(flag: str, help: str, *more: str, default: Any = ..., **extra: Any) -> Any:
    """A typer option named ``flag`` that can also be given as an environment variable."""
    name = flag.split("/")[0].lstrip("-").replace("-", "_").upper()
    if default is ...:
        return typer.Option(flag, *more, help=help, envvar=name, **extra)
    return typer.Option(default, flag, *more, help=help, envvar=name, **extra)
