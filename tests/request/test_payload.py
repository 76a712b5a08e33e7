from __future__ import annotations

import pytest

from hpcrunner.request.payload import unquoted


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ("10", ["10"]),
        ("--lr=0.1", ["--lr=0.1"]),
        ("'a b'", ["a b"]),
        ("'a' 'b'", ["a", "b"]),
        ("''", [""]),
        ("", []),
        ("--lr 0.1 --epochs 3", ["--lr", "0.1", "--epochs", "3"]),
        ("--name 'two words'", ["--name", "two words"]),
        ('"a b"', ["a b"]),
        ("'it'\"'\"'s'", ["it's"]),
        ("it's", ["it's"]),  # unbalanced: the raw word
        ("a\\", ["a\\"]),
        ("$(id)", ["$(id)"]),
        ("*.py", ["*.py"]),
        ("a;b&c|d", ["a;b&c|d"]),
        ("'a\nb'", ["a\nb"]),
        ("#x", ["#x"]),
    ],
)
def test_an_argument_is_read_as_a_shell_reads_quotes_and_nothing_is_expanded(
    sent: str, words: list[str]
) -> None:
    assert unquoted(sent) == words
