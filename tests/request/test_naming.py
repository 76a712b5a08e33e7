from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcrunner.request.naming import experiment_name


@pytest.mark.parametrize(
    "key",
    [
        "1530054412_70d7eaf4-3ce3-493a-a8f6-ffa0212a5c92",
        "hp_1795222872__opt__pZBY3ZrJAN2a46mcvWb5zQjqGaNvxQnM__1795222880",
        "a.b",
        "_",
        "k" * 128,
    ],
)
def test_a_real_clients_key_is_its_own_name(key: str) -> None:
    assert experiment_name(key) == key


@pytest.mark.parametrize(
    ("key", "prefix"),
    [
        ("a/b", "a_b-"),
        ("../../etc", "_.._etc-"),
        ("..", "experiment-"),
        (".hidden", "hidden-"),
        ("-rf", "rf-"),
        ("two words", "two_words-"),
        ("äöü", "_-"),
        ("k" * 129, "k" * 64 + "-"),
    ],
)
def test_another_key_gets_a_readable_name_with_a_digest(key: str, prefix: str) -> None:
    name = experiment_name(key)
    assert re.fullmatch(re.escape(prefix) + "[0-9a-f]{12}", name)


@given(st.text(st.characters(exclude_categories=())), st.text())
def test_every_name_is_a_folders_and_no_two_keys_share_one(one: str, other: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", experiment_name(one))
    assert (experiment_name(one) == experiment_name(other)) == (one == other)
