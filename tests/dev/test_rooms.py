"""The rooms of docs/architecture.md: what each may import, held against the code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "hpcrunner"
SERVICE = {"request", "storage", "images", "sites", "batch", "schedulers", "queues", "keys"}
# As in the page's table, below those that may be imported by all rooms.
MAY_IMPORT = {
    "request": set(),
    "storage": {"request"},
    "images": {"request", "storage"},
    "job": {"request", "storage", "images"},
    "sites": {"request"},
    "batch": {"sites", "request"},
    "schedulers": {"batch", "sites", "request"},
    "queues": {"request"},
    "keys": {"request", "queues"},
    "gateway": SERVICE,
    "doctor": {*SERVICE, "gateway"},
    "client": {"request", "storage", "queues"},
    "cli": {*SERVICE, "gateway", "doctor", "client", "demo"},
    "demo": {*SERVICE, "gateway", "doctor", "client"},
}
BESIDE = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}


def imported(path: Path) -> set[str]:
    """What of the package a file imports, in dotted names, wherever in it that stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hpcrunner"):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if node.module == "hpcrunner" else {str(node.module)}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.startswith("hpcrunner.")}
    return {name.removeprefix("hpcrunner.") for name in found} - {"__version__"}


def wrong(files: list[Path], allowed: set[str], *exceptions: str) -> list[str]:
    return [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in files
        for name in sorted(imported(path))
        if name.split(".")[0] not in allowed and name not in exceptions
    ]


def test_every_room_is_known() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(MAY_IMPORT)
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text("utf-8")
    assert [room for room in MAY_IMPORT if f"| `{room}/` |" not in page] == []
    assert [name for name in sorted(BESIDE) if f"`{name}.py`" not in page] == []


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    files = sorted((PACKAGE / room).rglob("*.py"))
    exceptions = ("cli.table",) if room == "demo" else ()
    assert wrong(files, {room, *MAY_IMPORT[room], *BESIDE}, *exceptions) == []


def test_what_lies_beside_the_rooms_leans_on_none_of_those_above() -> None:
    files = [PACKAGE / f"{name}.py" for name in sorted(BESIDE)]
    assert wrong(files, {"request", "storage", *BESIDE}) == []
