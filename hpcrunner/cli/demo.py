"""``hpcrunner demo``: the main job on this machine, with no server at all."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

from rich.live import Live

from hpcrunner.cli.options import option
from hpcrunner.cli.table import console, experiments_table, saved_table
from hpcrunner.demo.run import WORK, demo_site, run_demo
from hpcrunner.gateway.assemble import spool_of
from hpcrunner.gateway.view import record_of


def demo(
    folder: Annotated[
        str, option("--folder", "Where to keep everything; default: a new temporary folder.")
    ] = "",
) -> None:
    """Run three sample experiments here: one trains, one fails, one hits its time limit."""
    place = Path(folder or tempfile.mkdtemp(prefix="hpcrunner-demo-")).absolute()
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    scripts = ", ".join(str(work.filename) for work in WORK)
    console.print(f"queue folder → gateway → local scheduler → file store: {scripts}")
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        experiments = run_demo(place, lambda rows: live.update(experiments_table(rows)))
    console.print(experiments_table(experiments))
    spool = spool_of(demo_site(place))
    for work, experiment in zip(WORK, experiments, strict=True):
        record = record_of(spool, experiment)
        if record is not None:
            console.print(saved_table(str(work.filename), record))
    console.print(
        f"look further:  hpcrunner status {experiments[0].id} --spool {spool.root}\n"
        f"               hpcrunner logs {experiments[1].id} --spool {spool.root}",
        highlight=False,
    )
