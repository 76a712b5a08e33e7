"""Metadata read off the payload's output as it comes."""

from __future__ import annotations

import itertools
import json
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcrunner.job.jsoneditor import MAX_DOCUMENT
from hpcrunner.job.outputlog import FIRST, LAST, WIDTH
from hpcrunner.job.scraper import WAITING_LINES, Scraper
from hpcrunner.request.documents import as_text

LONG = 60.0


def ticks() -> Any:
    """A clock of nanoseconds that goes on by one at each look."""
    return itertools.count().__next__


def scraped(*chunks: bytes, logs: bool = True) -> Scraper:
    made = Scraper(logs=logs, clock=ticks())
    for chunk in chunks:
        made.feed(chunk)
    made.finish(LONG)
    return made


def messages(scraper: Scraper) -> list[str]:
    return [entry["msg"] for entry in scraper.log()]


def experiment(scraper: Scraper) -> Any:
    return scraper.document().get("experiment")


def test_lines_of_json_make_the_document_and_the_others_the_log() -> None:
    made = scraped(
        b'loading\n{"experiment": {"loss": 0.5}}\nepoch 1\n'
        b'[{"op": "add", "path": "/experiment/epochs", "value": [1]}]\n  \n\n'
        b'  {"experiment": {"acc": 1}}  \r\nthe last line has no break'
    )
    assert experiment(made) == {"loss": 0.5, "epochs": [1], "acc": 1}
    assert messages(made) == ["loading", "epoch 1", "the last line has no break"]


def test_a_bad_directive_costs_only_itself_and_the_log_says_why() -> None:
    made = scraped(
        b'{"experiment": {"a": 1}}\n'
        b'[{"op": "remove", "path": "/experiment/missing"}]\n'
        b'[{"op": "replace", "path": "/studioml/host", "value": "x"}]\n'
        b'{"experiment": {"b": 2}}\n'
    )
    assert experiment(made) == {"a": 1, "b": 2}
    first, second = messages(made)
    assert "missing" in first
    assert "only add is permitted" in second
    assert (made.refused, made.first_refusal) == (2, first.partition("used: ")[2])


def test_what_only_looks_like_a_directive_stays_in_the_log() -> None:
    made = scraped(b"[1, 2]\n{'a': 1}\n[12:00] done [ok]\n{nothing}\n{}\n[]\n")
    assert messages(made) == ["[1, 2]", "{'a': 1}", "[12:00] done [ok]", "{nothing}"]
    assert made.document() == {"studioml": {}}
    assert made.refused == 0


def test_a_directive_after_a_progress_bar_needs_a_carriage_return() -> None:
    made = scraped(b' 10%\r 20%\r{"experiment": {"a": 1}}\n 30%\r{"experiment": {"b": 1}}\r\n')
    assert experiment(made) == {"a": 1, "b": 1}
    assert messages(made) == []


def test_a_payload_adds_to_the_runners_part_and_changes_nothing_there() -> None:
    made = Scraper(clock=ticks())
    made.tell({"host": "n1", "status": "running"})
    made.feed(
        b'{"studioml": {"host": "elsewhere", "team": "blue"}}\n'
        b'[{"op": "add", "path": "/studioml/host", "value": "x"}]\n'
        b'[{"op": "add", "path": "/studioml/extra", "value": 1}]\n'
        b'[{"op": "add", "path": "/studioml/log/-", "value": {"ts": "0", "msg": "mine"}}]\n'
    )
    made.finish(LONG)
    ours = {"host": "n1", "status": "running", "team": "blue", "extra": 1}
    assert made.document() == {"studioml": ours}
    assert made.log() == [{"ts": "0", "msg": "mine"}]
    made.feed(b'{"studioml": [1]}\n')
    made.finish(LONG)
    assert made.document() == {"studioml": {"host": "n1", "status": "running"}}


@pytest.mark.parametrize("at_once", [1, 700, 10_000])
def test_the_log_keeps_its_beginning_and_its_end_and_counts_the_rest(at_once: int) -> None:
    lines = FIRST + LAST + 4321
    printed = [b"line %d\n" % n for n in range(lines)]
    made = scraped(*(b"".join(printed[n : n + at_once]) for n in range(0, lines, at_once)))
    said = messages(made)
    assert len(said) == FIRST + LAST + 1
    assert said[:FIRST] == [f"line {n}" for n in range(FIRST)]
    assert said[FIRST] == "[4321 lines are left out]"
    assert said[-LAST:] == [f"line {n}" for n in range(lines - LAST, lines)]


def test_without_logs_only_what_is_said_on_purpose_is_in_the_log() -> None:
    made = scraped(
        b"printed\n[1, 2]\n"
        b'[{"op": "add", "path": "/studioml/log/-", "value": {"ts": "0", "msg": "mine"}}]\n',
        logs=False,
    )
    made.say("Stop")
    assert messages(made) == ["mine", "Stop"]


@pytest.mark.parametrize("at_once", [1, 7, 64, 10_000])
def test_a_private_key_is_masked_however_it_is_cut_into_chunks_and_wherever_it_comes(
    at_once: int,
) -> None:
    """Also where its beginning is among the lines that are left out."""
    key = [b"-----BEGIN RSA PRIVATE KEY-----\n", *[b"%03dhush" % n * 9 + b"\n" for n in range(25)]]
    key.append(b"-----END RSA PRIVATE KEY-----\n")
    left_out = [b"line %d\n" % n for n in range(FIRST + 100)]
    printed = [b"read it: ", *key, b"then\n", *left_out, *key, *left_out[: LAST - 1]]
    output = b"".join(printed)
    made = scraped(*(output[n : n + at_once] for n in range(0, len(output), at_once)))
    said = messages(made)
    assert "hush" not in str(said)
    assert said[:3] == ["read it: ****", "then", "line 0"]
    assert (said[FIRST:][1], len(said)) == ("****", FIRST + 1 + LAST)


def test_log_lines_are_stamped_cut_and_without_credentials() -> None:
    url = b"https://user:" + b"p" * 500 + b"w0rd@host/path"
    made = Scraper(clock=lambda: 1_772_366_400_123_456_789)
    made.feed(b"AWS_SECRET_ACCESS_KEY=hunter2\n" + b"x" * (WIDTH - 100) + url + b"\n")
    made.feed("é".encode() * 5000 + b"\n")
    made.finish(LONG)
    secret, cut, long = made.log()
    assert secret == {
        "ts": "2026-03-01T12:00:00.123456789+00:00",
        "msg": "AWS_SECRET_ACCESS_KEY=****",
    }
    assert "https://****@host" in cut["msg"]
    assert long["msg"] == "é" * WIDTH + " …"


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def test_a_line_of_100_mb_needs_no_such_memory(traced: None) -> None:
    chunk = b'{"experiment": "' + b"x" * 65520
    made = Scraper()
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(1600):
        made.feed(chunk)
    made.feed(b'"}\n{"experiment": 1}\n')
    made.finish(LONG)
    _, peak = tracemalloc.get_traced_memory()
    assert peak - before < 4 << 20
    assert experiment(made) == 1


def test_the_logs_length_needs_no_memory(traced: None) -> None:
    made = Scraper()
    made.feed(b"".join(b"%060d\n" % n for n in range(2000)))
    chunk = b"".join(b"%060d\n" % n for n in range(1000))
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(300):
        made.feed(chunk)
    after, _ = tracemalloc.get_traced_memory()
    assert after - before < 1 << 20


def test_of_directives_that_come_too_fast_the_latest_are_folded() -> None:
    made = Scraper(logs=False)
    too_many = 500
    made.feed(
        b"".join(
            b'{"experiment": {"step": %d, "first": %d}}\n' % (n, min(n, too_many))
            for n in range(WAITING_LINES + too_many)
        )
    )
    made.finish(LONG)
    assert made.overrun == too_many
    assert experiment(made)["step"] == WAITING_LINES + too_many - 1


def test_what_there_was_no_time_for_at_the_end_is_counted() -> None:
    made = Scraper(logs=False)
    made.feed(b'{"experiment": 1}\n' * 10)
    made.finish(0.0)
    assert (made.overrun, experiment(made)) == (10, None)


def test_directives_are_folded_while_output_still_comes() -> None:
    changes: list[str] = []
    made = Scraper(changed=lambda: changes.append(as_text(made.document())))
    made.start()
    made.feed(b'{"experiment": {"a": 1}}\n{"experiment": {"b": ')
    until = time.monotonic() + LONG
    while experiment(made) is None or not changes:
        assert time.monotonic() < until
        time.sleep(0.005)
    assert experiment(made) == {"a": 1}
    made.feed(b"2}}\n")
    made.finish(LONG)
    assert experiment(made) == {"a": 1, "b": 2}
    assert json.loads(changes[0])["experiment"]["a"] == 1


lines = st.sampled_from(
    [
        b"plain text\n",
        b'{"experiment": {"a": 1}}\n',
        b'{"experiment": {"b": [1, 2]}}\r\n',
        b'[{"op": "add", "path": "/experiment/b/-", "value": 3}]\n',
        b'[{"op": "remove", "path": "/experiment/b"}]\n',
        b"[1, 2]\n",
        b"50%\r60%\r\n",
        b'70%\r{"c": 2}\n',
        b"\n",
    ]
)


@given(st.lists(lines, max_size=12).map(b"".join), st.lists(st.integers(0, 400), max_size=6))
def test_where_the_output_is_cut_does_not_matter(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    whole, cut = scraped(data), scraped(*pieces)
    assert cut.document() == whole.document()
    # Lines that only look like directives come a moment later.
    assert sorted(messages(cut)) == sorted(messages(whole))


json_like = st.text(alphabet='{}[]":,\\/ \r\nabop01-studiomlexperimentpathvalueadd', max_size=60)
output = st.one_of(st.binary(max_size=200), json_like.map(str.encode), lines)


@given(st.lists(output, max_size=10))
def test_whatever_is_printed_the_document_is_sound(chunks: list[bytes]) -> None:
    made = scraped(*chunks)
    document = made.document()
    assert json.loads(as_text(document)) == document
    assert isinstance(document["studioml"], dict)
    assert len(as_text(document)) <= MAX_DOCUMENT
    assert json.loads(as_text(made.log())) == made.log()
    assert len(made.log()) <= FIRST + LAST + 1
