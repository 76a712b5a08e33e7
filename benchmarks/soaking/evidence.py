"""What is left when a soak is over: the ledger, the journal, the client's list. Plain values."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soaking.design import Kind


@dataclass(frozen=True)
class Line:
    """One line of the ledger."""

    word: str
    key: str
    attempt: int
    job: str
    node: str
    at: float


@dataclass(frozen=True)
class Attempt:
    """An attempt that was followed by another, as the journal has it."""

    key: str
    attempt: int
    reason: str
    submitted_at: float
    ended_at: float


@dataclass(frozen=True)
class Transition:
    """A state that the journal wrote down for an experiment."""

    key: str
    at: float
    state: str


@dataclass(frozen=True)
class Evidence:
    """All of it. ``told`` are the rows of ``hpcrunner status --json`` by the client's key."""

    kinds: Mapping[str, Kind]
    published: Mapping[str, float]
    ledger: Sequence[Line]
    told: Mapping[str, Sequence[Mapping[str, Any]]]
    attempts: Sequence[Attempt]
    transitions: Sequence[Transition]


def gather(folder: Path, told: Iterable[Mapping[str, Any]]) -> Evidence:
    """Read what lies in the soak's folder. The gateway must not run any more."""
    kinds = {
        design["key"]: Kind(design["kind"])
        for design in json.loads((folder / "designs.json").read_text())
    }
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for row in told:
        rows.setdefault(row["key"], []).append(row)
    journal = sqlite3.connect(f"file:{folder}/spool/journal.db?mode=ro", uri=True)
    try:
        attempts = [
            Attempt(*row)
            for row in journal.execute(
                "SELECT e.key, a.attempt, a.reason, coalesce(a.submitted_at, e.received_at),"
                " coalesce((SELECT min(t.at) FROM transitions t WHERE t.experiment = e.id"
                "  AND t.state = 'ACCEPTED' AND t.at >= a.submitted_at), a.ended_at)"
                " FROM attempts a JOIN experiments e ON e.id = a.experiment"
            )
        ]
        transitions = [
            Transition(*row)
            for row in journal.execute(
                "SELECT e.key, t.at, t.state FROM transitions t"
                " JOIN experiments e ON e.id = t.experiment ORDER BY t.at"
            )
        ]
    finally:
        journal.close()
    return Evidence(
        kinds, _published(folder / "published"), _ledger(folder), rows, attempts, transitions
    )


def _published(path: Path) -> dict[str, float]:
    pairs = (line.split() for line in path.read_text().splitlines())
    return {key: float(at) for key, at in pairs}


def _ledger(folder: Path) -> list[Line]:
    lines: list[Line] = []
    path = folder / "ledger"
    for text in path.read_text().splitlines() if path.exists() else ():
        word, key, attempt, job, node, at = text.split()
        lines.append(Line(word, key, int(attempt), job, node, float(at)))
    return lines
