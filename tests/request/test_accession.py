"""Accessions: the names of attempts in reports and metadata."""

from __future__ import annotations

import pytest

from hpcrunner.request.accession import accession, base62


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (9, "9"), (10, "A"), (61, "z"), (62, "10"), (1624770769, "1lxN69")],
)
def test_a_number_in_base_62(number: int, text: str) -> None:
    assert base62(number) == text


def test_an_accession_names_host_and_second() -> None:
    assert accession("n7.cluster", 1546495043.9) == "n7.cluster-1gew0R"


def test_the_later_accession_of_a_host_sorts_last() -> None:
    assert accession("n7", 1_700_000_000) < accession("n7", 1_700_000_001) < accession("n7", 2e9)
