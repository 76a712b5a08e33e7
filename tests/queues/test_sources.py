"""Options to sources, pauses between attempts, troubles said once, acknowledgements saved."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcrunner.notices import Notices
from hpcrunner.queues.backoff import Backoff
from hpcrunner.queues.errors import OptionInvalid
from hpcrunner.queues.settlement import settlements
from hpcrunner.queues.sources import QueueOptions, sources_from

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Clock


def test_no_option_means_no_source() -> None:
    assert sources_from(QueueOptions(gateway_id="g")) == []


def test_one_source_for_each_server_given(tmp_path: Path) -> None:
    options = QueueOptions(
        gateway_id="g", amqp_url="amqp://u:$PW@${HOST}/v", queue_root="$ROOT/queue"
    )
    environ = {"PW": "secret", "HOST": "h", "ROOT": str(tmp_path)}
    names = [source.name for source in sources_from(options, environ)]
    assert names == [f"directory {tmp_path}/queue", "amqp://h:5672/v"]


def test_a_variable_that_is_not_set_is_an_error_that_names_option_and_variable() -> None:
    with pytest.raises(OptionInvalid) as refused:
        sources_from(QueueOptions(gateway_id="g", amqp_url="amqp://u:$RMQ_PW@h"), {})
    assert refused.value.where == "--amqp-url"
    assert "RMQ_PW" in refused.value.line()


def test_a_dollar_in_a_password_does_not_show_the_password() -> None:
    with pytest.raises(OptionInvalid) as refused:
        sources_from(QueueOptions(gateway_id="g", amqp_url="amqp://u:pa$$word@h"), {})
    assert "word" not in refused.value.line().replace("password", "")


def test_options_do_not_show_their_urls() -> None:
    options = QueueOptions(gateway_id="g", amqp_url="amqp://u:secret@h", amqp_mgt_url="secret")
    assert "secret" not in repr(options)


def test_named_queues_go_before_the_patterns(tmp_path: Path) -> None:
    for queue in ("local_a", "local_b", "mine"):
        (tmp_path / queue).mkdir()
        (tmp_path / queue / "m").write_text(queue)
    options = QueueOptions(gateway_id="g", queue_root=str(tmp_path), queues=("mine", "local_b"))
    (source,) = sources_from(options)
    time.sleep(0.25)  # the messages have to keep still
    assert {d.queue for d in source.take(9)} == {"mine", "local_b"}


@pytest.mark.parametrize(
    "options",
    [
        {"queue_match": "("},
        {"queues": ("rmq_a_response",)},
        {"amqp_url": "nonsense"},
        {"amqp_url": "amqp://h", "amqp_mgt_url": "nonsense"},
        {"queue_root": "/tmp", "gateway_id": "a/b"},
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_connected(options: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(OptionInvalid):
        sources_from(QueueOptions(**{"gateway_id": "g", **options}))


def test_pauses_double_to_a_ceiling_and_start_again_after_success(clock: Clock) -> None:
    backoff = Backoff(clock, first=1.0, ceiling=60.0, jitter=lambda: 1.0)
    assert backoff.due
    assert [backoff.failed() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert not backoff.due
    clock.forward(59)
    assert not backoff.due
    clock.forward(1)
    assert backoff.due
    backoff.failed()
    backoff.succeeded()
    assert backoff.due
    assert backoff.failed() == 1


def test_jitter_spreads_pauses_over_their_second_half(clock: Clock) -> None:
    lowest = Backoff(clock, first=10.0, jitter=lambda: 0.0)
    assert lowest.failed() == 5
    assert lowest.failed(at_least=600) == 300
    many = [Backoff(clock, first=10.0).failed() for _ in range(200)]
    assert all(5 <= pause < 10 for pause in many)
    assert len(set(many)) > 150


def test_a_trouble_is_said_when_it_begins_changes_and_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    notices = Notices(logging.getLogger("test"))
    notices.over("x", "never begun")
    for text in ("a", "a", "b", "b"):
        notices.warn("x", text)
    notices.warn("y", "c")
    notices.over("x", "ended")
    notices.over("x", "ended")
    assert [r.getMessage() for r in caplog.records] == ["a", "b", "c", "ended"]


@given(st.sets(st.integers(1, 40)), st.sets(st.integers(1, 40)))
def test_acknowledgements_settle_what_is_wanted_and_nothing_else(
    unsettled: set[int], wanted: set[int]
) -> None:
    left = set(unsettled)
    for tag, multiple in settlements(unsettled, wanted):
        assert tag in left, "to settle a tag twice closes the channel"
        left -= {t for t in left if t <= tag} if multiple else {tag}
    assert left == unsettled - wanted


def test_a_whole_group_is_settled_at_once() -> None:
    assert settlements({3, 4, 5, 9}, {3, 4, 5, 9}) == [(9, True)]
    assert settlements({3, 4, 5, 9}, {3, 4, 9}) == [(4, True), (9, False)]
    assert settlements({3}, {3, 8}) == [(3, False)]
