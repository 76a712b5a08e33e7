"""Experiments and other rows as a table, and one experiment as a page of text."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hpcrunner.gateway.experiment import Experiment, ending_words
from hpcrunner.gateway.view import why
from hpcrunner.request.record import Record
from hpcrunner.request.units import format_bytes, format_duration

_COLOURS = {
    "SUCCEEDED": "green",
    "RUNNING": "cyan",
    "FAILED": "red",
    "LOST": "red",
    "REJECTED": "magenta",
    "CANCELLED": "yellow",
}
_PIPE_WIDTH = 240  # no terminal to fit: leave the words whole

console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def experiments_table(rows: Sequence[Experiment]) -> Table:
    """The status table: one row an experiment, oldest first."""
    wide = shutil.get_terminal_size().columns >= 100 or not sys.stdout.isatty()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("ID", "KEY", "STATE", "JOB", "NODE", "TIME"):
        table.add_column(name, no_wrap=name != "KEY", overflow="fold")
    table.add_column("WHY", overflow="fold" if wide else "ellipsis", no_wrap=not wide)
    for e in rows:
        colour = _COLOURS.get(e.state.value, "")
        cells = (e.id, e.key, e.state.value, e.job_id, e.node, _elapsed(e), why(e))
        table.add_row(*(Text(c, style=colour if i == 2 else "") for i, c in enumerate(cells)))
    return table


def words_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Rows of words as they are; what does not fit into a line goes on in the next."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def saved_table(title: str, record: Record) -> Table:
    """What one experiment printed last and where its artifacts lie."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for name in ("ARTIFACT", "SIZE", "WHERE"):
        table.add_column(name, overflow="fold")
    for saved in record.saved:
        table.add_row(saved.tag, format_bytes(saved.size), Text(saved.address))
    for line in record.last_lines[-3:]:
        table.add_row("prints", "", Text(line))
    return table


def _elapsed(experiment: Experiment) -> str:
    start = experiment.started_at
    if start is None:
        return ""
    end = experiment.ended_at if experiment.state.final else time.time()
    return format_duration(max(0.0, round((end or time.time()) - start)))


def details_text(told: dict[str, Any]) -> str:
    """One experiment as a page: what, how it ended, its history, what it saved."""
    lines = [f"{told['key']}  ({told['id']}, attempt {told['attempt']})"]
    lines.append(f"  state     {told['state']}" + (f", {told['phase']}" if told["phase"] else ""))
    ended = ending_words(told["state"], told["reason"], told["text"])
    if ended:
        lines.append(f"  reason    {ended}")
    if told["exit_code"] is not None:
        lines.append(f"  exit code {told['exit_code']}")
    if told["pending"]:
        lines.append(f"  waits for {told['pending']}")
    lines.append(f"  queue     {told['queue']}")
    if told["job_id"]:
        lines.append(f"  job       {told['job_id']}" + (f" on {told['node']}" * bool(told["node"])))
    if told["log"]:
        lines.append(f"  log       {told['log']}")
    if told["retried_as"]:
        lines.append(f"  retried   as {told['retried_as']}")
    for attempt in told["attempts"]:
        where = f" on {attempt['node']}" if attempt["node"] else ""
        lines.append(
            f"  attempt {attempt['attempt']} {attempt['reason']}: {attempt['text']} "
            f"(job {attempt['job_id']}{where}, log {attempt['log']})"
        )
    lines.append("  history")
    lines += [
        f"    {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(step['at']))}"
        f"  {step['state']:<10} {step['text']}"
        for step in told["history"]
    ]
    if told["saved"]:
        lines.append("  saved")
        lines += [
            f"    {s['tag']:<12} {format_bytes(s['size']):>9}  {s['address']}"
            for s in told["saved"]
        ]
    if told["last_lines"]:
        lines.append("  last lines")
        lines += [f"    {line}" for line in told["last_lines"]]
    return "\n".join(lines)
