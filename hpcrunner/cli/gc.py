"""``hpcrunner gc``: remove what has ended long enough ago."""

from __future__ import annotations

from dataclasses import asdict
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
from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.gc import Report, collect, survey
from hpcrunner.gateway.sweep import Kind
from hpcrunner.request.units import format_bytes
from hpcrunner.sites.values import parse_age

_MEANING = {
    Kind.PLANS: "plans of ended batches, with credentials",
    Kind.MESSAGES: "messages of ended experiments, with credentials",
    Kind.BATCHES: "batch folders: script, logs, records",
    Kind.EXPERIMENTS: "experiments in the journal, with their histories",
    Kind.RESULTS: "results and records in the spool's own store",
    Kind.ARCHIVES: "archives of code in there",
    Kind.LEFTOVERS: "what crashes and restored backups have left",
}


class AgeInvalid(HpcrunnerError):
    """An age on the command line that is none."""

    exit_code = 64  # EX_USAGE


def gc(
    site: SiteName = DEFAULT_SITE,
    spool: SpoolPath = "",
    # Not by environment variables: one that happens to be set must not choose what is removed.
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would go; change nothing.")
    ] = False,
    older_than: Annotated[
        str,
        typer.Option(
            "--older-than",
            help="This once, for what has ended, instead of the site's retention.ended.",
            metavar="AGE",
        ),
    ] = "",
    json_: AsJson = False,
) -> None:
    """Remove what has ended long enough ago, by the site's 'retention'.

    A running gateway does this by itself every hour; then it is only asked to do it now. What
    lives is never touched.
    """
    age = _age(older_than) if older_than else None
    chosen = chosen_site(site, spool)
    report = survey(chosen, age) if dry_run else collect(chosen, age)
    if json_:
        print_json(_values(report, dry_run))
        return
    _print(report, dry_run)


def _age(text: str) -> float:
    try:
        age = parse_age(text)
    except ValueError:
        age = None
    if age is None:
        raise AgeInvalid(
            f"{text!r} is not an age", where="--older-than", remedy="write 10d, 12h, 90m or 0"
        )
    return age


def _print(report: Report, dry: bool) -> None:
    if report.busy:
        typer.echo(f"{report.busy}; it was asked to collect now ('--dry-run' tells what is left)")
        return
    for kind, count in report.tally.counts.items():
        typer.echo(
            f"{kind.value:<12}{count.number:>8}{format_bytes(count.size):>10}  {_MEANING[kind]}"
        )
    for path, why in report.tally.skipped.items():
        typer.echo(f"{path}: {why}", err=True)
    if report.journal_smaller:
        typer.echo(f"the journal's file is {format_bytes(report.journal_smaller)} smaller")
    if dry:
        typer.echo("nothing was changed: this would go now")


def _values(report: Report, dry: bool) -> dict[str, object]:
    return {
        "dry_run": dry,
        "asked": report.busy or None,
        "kinds": {kind.value: asdict(count) for kind, count in report.tally.counts.items()},
        "skipped": report.tally.skipped,
        "journal_smaller": report.journal_smaller,
    }
