"""What an attempt staged, summed up from its own events for the record."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hpcrunner.job.events import Events, Staged


def sums(staged: Staged) -> tuple[int, int, int, int]:
    return (
        staged.fetched_bytes,
        staged.saved_bytes,
        staged.cache_hits,
        staged.cache_misses,
    )


def test_bytes_and_cache_hits_are_summed_up(tmp_path: Path) -> None:
    events = Events(tmp_path / "events")
    events.tell("fetched", "", tag="a", size=100)
    events.tell("fetched", "", tag="b", size=20, cache="miss")
    events.tell("fetched", "", tag="c", size=7000, cache="hit")  # from no store
    events.tell("saved", "", tag="output", size=3)
    events.tell("saved", "", tag="output", size=4)
    events.note("saving", size=10**6)
    events.note("fetched", tag="odd", size="many")
    assert sums(events.staged) == (120, 7, 1, 1)


def test_it_counts_where_no_event_can_be_written(tmp_path: Path) -> None:
    events = Events(tmp_path / "no" / "such" / "folder")
    events.note("saved", size=5)
    assert sums(events.staged) == (0, 5, 0, 0)


def test_uploads_side_by_side_lose_no_byte(tmp_path: Path) -> None:
    events = Events(tmp_path / "events")
    with ThreadPoolExecutor(8) as pool:
        for _ in range(2000):
            pool.submit(events.note, "saved", size=1)
    assert events.staged.saved_bytes == 2000
