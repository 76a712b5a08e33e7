"""``.studioml_ignore``: rsync's patterns, checked against rsync where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from hpcrunner.client.ignore import ignored

TREE = (
    "a.txt",
    "b.log",
    "data/",
    "data/x.bin",
    "data/sub/",
    "data/sub/y.bin",
    "sub/",
    "sub/data/",
    "sub/data/z.bin",
    "sub/b.log",
    "sub/keep[1].txt",
    "data.txt",
)
FILES = (
    "data",
    "data/",
    "/data",
    "/data/",
    "*.log",
    "/*.log",
    "data/*.bin",
    "data/**.bin",
    "sub/*",
    "?.txt",
    "[ab].*",
    "[!a].*",
    "[^ab]*.txt",
    "# data\n; sub\n\n  b.log",
    "- b.log",
    "keep\\[1\\].txt",
    "su",
    "sub/data\n*.txt",
    "**/z.bin",
    "data/sub",
)


def left(text: str) -> set[str]:
    """What travels, asked as the packer does: not below a folder that stays."""
    rule = ignored(text)
    kept: set[str] = set()
    for name in TREE:
        above = name.rstrip("/").rpartition("/")[0]
        if (not above or f"{above}/" in kept) and not rule(name):
            kept.add(name)
    return kept


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
@pytest.mark.parametrize("text", FILES)
def test_patterns_mean_what_rsync_says(text: str, tmp_path: Path) -> None:
    for name in TREE:
        if name.endswith("/"):
            (tmp_path / "from" / name).mkdir(parents=True)
        else:
            (tmp_path / "from" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "from" / name).touch()
    (tmp_path / "rules").write_text(text)
    argv = [
        "rsync",
        "-a",
        f"--exclude-from={tmp_path}/rules",
        f"{tmp_path}/from/",
        f"{tmp_path}/to",
    ]
    subprocess.run(argv, check=True)
    to = tmp_path / "to"
    theirs = {f"{p.relative_to(to)}{'/' if p.is_dir() else ''}" for p in to.rglob("*")}
    assert left(text) == theirs


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        (
            "data/",
            {"data/", "data/x.bin", "data/sub/", "data/sub/y.bin", "sub/data/", "sub/data/z.bin"},
        ),
        ("/data", {"data/", "data/x.bin", "data/sub/", "data/sub/y.bin"}),
        ("*.log", {"b.log", "sub/b.log"}),
        ("/*.log", {"b.log"}),
        ("data/*.bin", {"data/x.bin", "sub/data/z.bin"}),
        ("# data\n; sub\n\nb.log", {"b.log", "sub/b.log"}),
        ("(", set()),
    ],
)
def test_named_things_stay_at_home(text: str, gone: set[str]) -> None:
    assert set(TREE) - left(text) == gone


def test_some_things_never_travel() -> None:
    rule = ignored("")
    for name in (".git/", "sub/.git/", "sub/__pycache__/", ".venv/", ".studioml_ignore"):
        assert rule(name)
    assert not rule("git/")
    assert not rule("my.git")
