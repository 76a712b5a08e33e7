"""Which queue names are ours."""

from __future__ import annotations

import pytest

from hpcrunner.queues.errors import OptionInvalid
from hpcrunner.queues.matching import QueueFilter


@pytest.mark.parametrize("name", ["rmq_a", "sqs_x-y", "local_", "local_ü"])
def test_studioml_names_match_by_default(name: str) -> None:
    assert QueueFilter().admits(name)


@pytest.mark.parametrize("name", ["", "a_rmq_b", "rmq", "rmqa", "RMQ_a", "celery"])
def test_other_names_do_not(name: str) -> None:
    assert not QueueFilter().admits(name)


def test_patterns_search_anywhere() -> None:
    assert QueueFilter("gpu").admits("rmq_gpu_team")
    assert not QueueFilter("", "gpu").admits("rmq_gpu_team")


def test_an_empty_match_takes_all_and_an_empty_mismatch_excludes_none() -> None:
    assert QueueFilter("", "").admits("anything")


def test_the_mismatch_wins() -> None:
    both = QueueFilter("^rmq_", "_private$")
    assert both.admits("rmq_a")
    assert not both.admits("rmq_private")


def test_report_queues_are_never_ours_whatever_the_patterns_say() -> None:
    assert not QueueFilter().admits("rmq_a_response")
    assert not QueueFilter("_response$").admits("rmq_a_response")
    assert QueueFilter().admits("rmq_a_responses")


@pytest.mark.parametrize("name", ["rmq_a\nforged log line", "rmq_\x1b[2J", "local_\udcff"])
def test_names_that_would_garble_a_log_or_the_journal_are_never_ours(name: str) -> None:
    assert not QueueFilter("").admits(name)


def test_named_queues_are_taken_to_the_letter() -> None:
    only = QueueFilter.only(["rmq_a.b", "my queue"])
    assert only.admits("rmq_a.b")
    assert only.admits("my queue")
    for other in ("rmq_a-b", "rmq_a.b2", "xrmq_a.b", "rmq_c"):
        assert not only.admits(other)


@pytest.mark.parametrize("name", ["rmq_a_response", "", "a\nb"])
def test_a_queue_never_ours_cannot_be_named(name: str) -> None:
    with pytest.raises(OptionInvalid):
        QueueFilter.only(["rmq_a", name])


@pytest.mark.parametrize(
    ("options", "option"),
    [
        (("(", ""), "--queue-match"),
        (("", "[z-a]"), "--queue-mismatch"),
        (("a{99999999999999999999}", ""), "--queue-match"),
    ],
)
def test_a_bad_pattern_is_one_line_that_names_its_option(
    options: tuple[str, str], option: str
) -> None:
    with pytest.raises(OptionInvalid) as refused:
        QueueFilter(*options)
    line = refused.value.line()
    assert line.startswith(f"{option}: ")
    assert "\n" not in line
