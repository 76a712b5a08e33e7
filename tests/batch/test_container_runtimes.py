"""Which releases of the container programs know the words that containers are run with."""

from __future__ import annotations

import pytest

from hpcrunner.batch.runtimes import release_of, shortcomings, unknown_words


@pytest.mark.parametrize(
    ("said", "release"),
    [
        ("apptainer version 1.4.5", ("apptainer", (1, 4, 5))),
        ("apptainer version 1.1.3-1.el8", ("apptainer", (1, 1, 3))),
        ("singularity version 3.8.7-1.el8", ("singularity", (3, 8, 7))),
        ("singularity-ce version 4.1.5-focal", ("singularity", (4, 1, 5))),
        ("SingularityPRO version 3.11-8.el9", ("singularity", (3, 11))),
        ("2.6.1-dist", ("singularity", (2, 6, 1))),
        ("command not found", None),
        ("", None),
    ],
)
def test_a_release_is_read_from_what_the_programs_say(said: str, release: object) -> None:
    assert release_of(said) == release


@pytest.mark.parametrize(
    ("said", "unknown"),
    [
        ("singularity version 3.5.3", ("--env-file", "--no-mount", "--no-eval")),
        ("singularity version 3.6.4", ("--no-mount", "--no-eval")),
        ("singularity version 3.8.7", ("--no-eval",)),
        ("singularity-ce version 3.9.9", ("--no-eval",)),
        ("singularity-ce version 3.10.0", ()),
        ("apptainer version 1.0.3", ("--no-eval",)),
        ("apptainer version 1.1.0", ()),
        ("apptainer version 1.4.5", ()),
        ("a program of the site's own", ()),  # nobody can tell
    ],
)
def test_words_that_a_release_does_not_know_are_named(said: str, unknown: object) -> None:
    assert unknown_words(said, isolation=True) == unknown
    without = tuple(word for word in ("--env-file", "--no-eval") if word in unknown)  # type: ignore[operator]
    assert unknown_words(said, isolation=False) == without


@pytest.mark.parametrize(
    ("said", "clauses", "with_amd"),
    [
        ("apptainer version 1.1.0", 1, 2),
        ("apptainer version 1.1.9", 1, 1),
        ("apptainer version 1.2.0", 0, 0),
        ("singularity-ce version 3.10.5", 1, 2),
        ("singularity-ce version 3.11.0", 0, 0),
    ],
)
def test_what_an_older_release_leaves_out_is_told(said: str, clauses: int, with_amd: int) -> None:
    assert len(shortcomings(said, isolation=True, amd=False)) == clauses
    assert len(shortcomings(said, isolation=True, amd=True)) == with_amd
    assert shortcomings(said, isolation=False, amd=True) == ()
