"""The end of a payload's output, and its copies."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hpcrunner.job.output import LAST_LINES, LINE_WIDTH, Tail, Tee


def tail(*chunks: bytes) -> Tail:
    made = Tail()
    for chunk in chunks:
        made.feed(chunk)
    return made


def test_the_last_lines_are_kept_oldest_first() -> None:
    text = b"".join(b"line %d\n" % n for n in range(100))
    kept = tail(text)
    assert kept.last() == tuple(f"line {n}" for n in range(100 - LAST_LINES, 100))
    assert (kept.lines, kept.bytes) == (100, len(text))


def test_a_last_line_without_its_break_counts() -> None:
    assert tail(b"a\nb").last() == ("a", "b")


def test_of_a_progress_bar_the_last_state_is_kept() -> None:
    assert tail(b"start\n 1%\r 2%\r", b" 3%").last() == ("start", " 3%")
    assert tail(b" 1%\r", b" 2%\r", b"\ndone\r\n").last() == (" 2%", "done")
    assert tail(b" 1%\r", b"\r", b"\r\n").last() == (" 1%",)


def test_a_line_of_any_length_needs_constant_memory() -> None:
    made = Tail()
    for _ in range(1000):
        made.feed(b"\xc3\xa9" * 10_000)
    assert len(made._line) <= 4 * LINE_WIDTH
    assert made.last() == ("é" * LINE_WIDTH,)


@given(st.text("ab\r\n", max_size=300).map(str.encode), st.lists(st.integers(0, 300)))
@example(b"a\r\r", [2])
def test_where_the_stream_is_cut_does_not_matter(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(data)]
    parts = [data[a:b] for a, b in itertools.pairwise(edges)]
    assert tail(*parts).last() == tail(data).last()
    assert tail(data).lines == data.count(b"\n")


def test_output_is_copied_byte_by_byte(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    read, write = os.pipe()
    tee = Tee(tmp_path / "output")
    tee.start(read)
    data = bytes(range(256)) * 1000
    os.write(write, b"first")
    view = memoryview(data)
    while view:
        view = view[os.write(write, view) :]
    os.close(write)
    tee.finish(10)
    assert (tmp_path / "output").read_bytes() == b"first" + data
    assert tee.tail.bytes == len(data) + 5


def test_a_full_disk_is_told_and_the_pipe_is_still_read() -> None:
    tee = Tee(Path("/dev/full"))
    tee.write(b"one\n")
    tee.write(b"two\n")
    assert tee.failure is not None
    assert tee.failure.strerror == "No space left on device"
    assert tee.tail.last() == ("one", "two")


def test_output_through_a_planted_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "output").symlink_to(tmp_path / "elsewhere")
    tee = Tee(tmp_path / "output")
    tee.write(b"x")
    assert tee.failure is not None
    assert not (tmp_path / "elsewhere").exists()


def test_a_note_stands_on_a_line_of_its_own(tmp_path: Path) -> None:
    tee = Tee(tmp_path / "output")
    tee.write(b"half a line")
    tee.note("ours")
    assert (tmp_path / "output").read_bytes() == b"half a line\nours\n"
