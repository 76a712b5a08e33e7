"""docs/compatibility.md: no empty row, and what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "compatibility.md").read_text(encoding="utf-8")
_TABLE = re.compile(r"\| feature \| state \| remark \|\n\|---\|---\|---\|\n((?:\|.*\n)+)")
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for table in _TABLE.findall(PAGE)
    for line in table.splitlines()
]


def test_every_row_has_a_feature_a_state_and_a_remark_where_it_is_not_done() -> None:
    assert len(ROWS) > 400
    for row in ROWS:
        assert len(row) == 3, row
        feature, state, remark = row
        assert feature and state in ("done", "different", "not yet"), row
        assert remark or state == "done", row


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"\b(?:tests|docs|dev|hpcrunner)/[\w/.-]+\w", PAGE)))
)
def test_a_file_that_it_names_is_there(path: str) -> None:
    assert (REPOSITORY / path).exists()


def test_the_tests_of_clients_that_it_names_are_there() -> None:
    ours = "\n".join(p.read_text() for p in (REPOSITORY / "tests" / "studioml").glob("test_*.py"))
    section = PAGE.partition("### Their tests")[2]
    named = [
        word
        for row in section.splitlines()
        for word in re.findall(r"\btest_(?:every|a|an|the|arguments|studio)_\w+", row)
    ]
    assert len(named) > 6
    for name in named:
        assert f"def {name}" in ours, name
