"""``hpcrunner drain`` and ``hpcrunner resume``: take no new experiments for a while."""

from __future__ import annotations

from typing import Annotated

import typer

from hpcrunner.cli.common import DEFAULT_SITE, SiteName, SpoolPath, chosen_site
from hpcrunner.cli.options import option
from hpcrunner.gateway import drained
from hpcrunner.gateway.by_hand import existing_spool


def drain(
    site: SiteName = DEFAULT_SITE,
    spool: SpoolPath = "",
    reason: Annotated[str, option("--reason", "Why; 'hpcrunner status' shows it.")] = "",
) -> None:
    """Take no new experiments on this spool until 'hpcrunner resume', whatever restarts.

    Experiments that were accepted already are still submitted, followed and cancelled.
    """
    folder = existing_spool(chosen_site(site, spool))
    mark, new = drained.drain(folder, reason)
    typer.echo(f"spool {folder.root}: {'' if new else 'is already '}{mark.words()}")


def resume(site: SiteName = DEFAULT_SITE, spool: SpoolPath = "") -> None:
    """Take new experiments again after 'hpcrunner drain'."""
    folder = existing_spool(chosen_site(site, spool))
    had = drained.resume(folder)
    said = "resumed: new experiments are taken again" if had else "was not drained"
    typer.echo(f"spool {folder.root}: {said}")
