from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hpcrunner.request.units import (
    UnitError,
    format_bytes,
    format_duration,
    parse_bytes,
    parse_duration,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("0gb", 0),
        ("42", 42),
        ("42 B", 42),
        ("1,024", 1024),
        ("1.5k", 1500),
        ("5.", 5),
        (".5kb", 500),
        ("3g", 3_000_000_000),
        ("8G", 8_000_000_000),
        ("3gb", 3_000_000_000),
        ("3GB", 3_000_000_000),
        ("3 gb", 3_000_000_000),
        ("3gib", 3_221_225_472),
        ("3Gi", 3_221_225_472),
        ("256m", 256_000_000),
        ("256MiB", 268_435_456),
        ("1tb", 10**12),
        ("1ti", 2**40),
        ("2p", 2 * 10**15),
        ("1pib", 2**50),
        ("1e", 10**18),
        ("1eib", 2**60),
        ("1.9", 1),
        (7, 7),
        (2.5, 2),
        (0, 0),
    ],
)
def test_sizes_are_read_by_the_rules_of_go_humanize(text: str | float, size: int) -> None:
    assert parse_bytes(text) == size


NO_SIZES: list[str | float] = [
    *("", " ", "g", "-1", "-1g", "1e3", "1 g b", "3 days", "1..2", ".", ",", "0x10", "१", "1\0"),
    *("16eib", "9" * 127, "9" * 10_000, -1, -0.5, 2**64, 10**4000, True),
    *(math.nan, math.inf, -math.inf),
]


@pytest.mark.parametrize("text", NO_SIZES, ids=lambda value: repr(value)[:16])
def test_what_is_no_size_is_refused_with_the_forms_allowed(text: str | float) -> None:
    with pytest.raises(UnitError) as caught:
        parse_bytes(text)
    assert "is not a size; write" in caught.value.line()
    assert len(caught.value.line()) < 250


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("90", 90),
        ("90s", 90),
        ("75s", 75),
        ("20m", 1200),
        ("24h", 86400),
        ("1h10m", 4200),
        ("1H10M", 4200),
        ("1h30m5.5s", 5405.5),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("5.s", 5),
        ("300ms", 0.3),
        ("1us", 1e-6),
        ("1µs", 1e-6),
        ("1\N{GREEK SMALL LETTER MU}s", 1e-6),
        ("10ns", 1e-8),
        ("+5m", 300),
        ("-10m", -600),
        ("-1h30m", -5400),  # Go: the sign goes for the whole
        ("-1h-30m", -5400),  # the Python client: a sign for every part
        ("1h-30m", 1800),
        ("100h100m", 366_000),
        (30, 30),
        (0.25, 0.25),
        (-3, -3),
    ],
)
def test_durations_are_read_as_go_and_the_python_client_write_them(
    text: str | float, seconds: float
) -> None:
    assert parse_duration(text) == pytest.approx(seconds, rel=1e-12)


NO_DURATIONS: list[str | float] = [
    *("", " ", "soon", "1d", "1h 30m", "1h30", "h", "-", "--1s", "1m1", "1_0s", "1e3s", "1:30"),
    *("999999999h", "9" * 10_000, "1s" * 5000, 1e12, 10**4000, False, math.nan, math.inf),
]


@pytest.mark.parametrize("text", NO_DURATIONS, ids=lambda value: repr(value)[:16])
def test_an_unparsable_duration_is_an_error_and_never_zero(text: str | float) -> None:
    with pytest.raises(UnitError) as caught:
        parse_duration(text)
    assert "is not a duration; write" in caught.value.line()
    assert len(caught.value.line()) < 250


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (256_000_000, "256 MB"),
        (3_221_225_472, "3.22 GB"),
        (2**64 - 1, "18.4 EB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.12, "120ms"),
        (3.24, "3.2s"),
        (59.97, "1m"),
        (303, "5m3s"),
        (3599.7, "1h"),
        (93_900, "26h5m"),
        (-600, "-10m"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 2**63))
def test_a_printed_size_can_be_pasted_back(size: int) -> None:
    assert parse_bytes(format_bytes(size)) == pytest.approx(size, rel=0.006)


@given(st.floats(-1e9, 1e9))
@example(1.25)
def test_a_printed_duration_can_be_pasted_back(seconds: float) -> None:
    back = parse_duration(format_duration(seconds))
    assert back == pytest.approx(seconds, rel=0.05, abs=0.0006)


@given(st.text() | st.floats() | st.integers())
def test_no_text_or_number_raises_anything_but_a_unit_error(value: str | float) -> None:
    for parse in (parse_bytes, parse_duration):
        with contextlib.suppress(UnitError):
            assert math.isfinite(parse(value))
