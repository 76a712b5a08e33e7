"""Intake: written down before it is settled, and nothing bad blocks or vanishes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.gateway.database import JournalError
from hpcrunner.gateway.experiment import Outcome, State
from hpcrunner.gateway.spool import SUBMIT_QUEUE
from hpcrunner.queues.contract import Delivery
from hpcrunner.request.reasons import Reason

REQUESTS = Path(__file__).parents[1] / "data" / "requests"


def test_a_message_is_journalled_before_it_is_settled(
    parts: Any, message: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.pile.put(message("a"))
    seen: list[int] = []
    accept = parts.pile.accept

    def watch(deliveries: Any) -> None:
        seen.append(parts.journal.count_live())
        accept(deliveries)

    monkeypatch.setattr(parts.pile, "accept", watch)
    assert parts.intake.drain(10) == 1
    assert seen == [1]


def test_what_cannot_be_journalled_is_not_settled(
    parts: Any, message: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise JournalError("disk full")

    parts.pile.put(message("a"))
    monkeypatch.setattr(parts.journal, "add", full)
    with pytest.raises(JournalError):
        parts.intake.drain(10)
    assert parts.pile.accepted == []


def test_a_redelivered_message_that_is_journalled_already_is_settled_without_a_second_row(
    parts: Any, message: Callable[..., bytes]
) -> None:
    parts.pile.put(message("a"))
    parts.intake.drain(10)
    parts.pile.put(message("a"), redelivered=True)
    assert parts.intake.drain(10) == 1
    assert len(parts.journal.live()) == 1
    assert len(parts.pile.accepted) == 2


def end(parts: Any) -> None:
    well = Outcome(State.SUCCEEDED, Reason.COMPLETED, "ended well")
    parts.journal.end([(e.id, well) for e in parts.journal.live()])


def test_a_client_that_sends_the_same_experiment_again_gets_it_run_again(
    parts: Any, message: Callable[..., bytes]
) -> None:
    """A client's new submission of one key has another time_added."""
    parts.pile.put(with_member(message("a"), "time_added", 1.8e9))
    parts.pile.put(with_member(message("a"), "time_added", 1.8e9 + 60))
    parts.intake.drain(10)
    assert len(parts.journal.live()) == 2


@pytest.mark.parametrize("redelivered", [True, False])
def test_a_copy_is_settled_and_not_run_while_the_first_lives_or_has_just_ended(
    parts: Any, message: Callable[..., bytes], redelivered: bool
) -> None:
    parts.pile.put(message("a"))
    parts.pile.put(message("a"), redelivered=redelivered)
    parts.intake.drain(10)
    (e,) = parts.journal.live()
    end(parts)
    parts.pile.put(message("a"), redelivered=redelivered)
    parts.intake.drain(10)
    assert parts.journal.live() == []
    assert len(parts.pile.accepted) == 3
    assert sum("another copy" in text for _, _, text in parts.journal.history(e.id)) == 2


def test_the_same_bytes_long_after_the_end_are_a_wish_to_run_it_again(
    parts: Any, message: Callable[..., bytes]
) -> None:
    parts.pile.put(message("a"))
    parts.intake.drain(10)
    end(parts)
    parts.clock.forward(parts.site.repeat_window + 1)
    parts.pile.put(message("a"), redelivered=True)
    parts.intake.drain(10)
    assert len(parts.journal.live()) == 1


def test_a_message_whose_acknowledgement_failed_is_known_however_late_it_comes_again(
    parts: Any, message: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(_: object) -> None:
        raise ConnectionError

    parts.pile.put(message("a"))
    with monkeypatch.context() as patch:
        patch.setattr(parts.pile, "accept", cut)
        with pytest.raises(ConnectionError):
            parts.intake.drain(10)
    end(parts)
    parts.clock.forward(30 * 86400)
    parts.start()
    parts.pile.put(message("a"), redelivered=True)
    parts.intake.drain(10)
    assert parts.journal.live() == []
    assert len(parts.pile.accepted) == 1


def test_what_is_submitted_by_hand_is_always_run(parts: Any, message: Callable[..., bytes]) -> None:
    for _ in range(2):
        parts.pile.waiting.append(Delivery(SUBMIT_QUEUE, message("a"), False))
    parts.intake.drain(10)
    assert len(parts.journal.live()) == 2


def test_a_queue_elsewhere_that_is_named_like_the_spools_own_is_no_exception(
    parts: Any, message: Callable[..., bytes]
) -> None:
    for _ in range(2):
        elsewhere = Delivery(SUBMIT_QUEUE, message("a"), False, server="amqp://broker/")
        parts.pile.waiting.append(elsewhere)
    parts.intake.drain(10)
    assert len(parts.journal.live()) == 1


def test_no_more_is_taken_than_asked_for(parts: Any, message: Callable[..., bytes]) -> None:
    for i in range(5):
        parts.pile.put(message(f"e{i}"))
    assert parts.intake.drain(2) == 2
    assert len(parts.pile.waiting) == 3


def without_workspace(body: bytes) -> bytes:
    document = json.loads(body)
    del document["experiment"]["artifacts"]["workspace"]
    return json.dumps(document).encode()


def with_member(body: bytes, name: str, value: object) -> bytes:
    document = json.loads(body)
    document["experiment"][name] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda _: b"\x00\xff not json", "message"),
        (lambda _: b"[1, 2]", "message"),
        (lambda _: b"", "message"),
        (lambda _: b"[" * 100_000, "message"),
        (lambda _: b'"' + b"x" * (33 << 20) + b'"', "message"),
        (without_workspace, "artifacts"),
        (lambda b: with_member(b, "filename", "../../x"), "filename"),
        (lambda b: with_member(b, "args", ["a\x00b"]), "args"),
        (lambda b: with_member(b, "max_duration", "soon"), "max_duration"),
        (lambda b: with_member(b, "resources_needed", {"cpus": -1}), "cpus"),
        (lambda b: with_member(b, "resources_needed", {"ram": "much"}), "ram"),
        (lambda b: with_member(b, "resources_needed", {"ram": "900g"}), "cpu"),
        (lambda b: with_member(b, "resources_needed", {"gpus": 3}), "GPU"),
    ],
)
def test_a_bad_message_is_set_aside_with_one_line_and_the_queue_goes_on(
    parts: Any, message: Callable[..., bytes], spoil: Callable[[bytes], bytes], said: str
) -> None:
    bad = spoil(message("bad"))
    parts.pile.put(bad)
    parts.pile.put(message("good"))
    assert parts.intake.drain(10) == 2
    (good,) = parts.journal.live()
    assert good.key == "good"
    (aside,) = [e for e in parts.journal.recent(10) if e.state is State.REJECTED]
    assert aside.reason is Reason.REJECTED
    assert said in aside.text
    assert "\n" not in aside.text
    assert len(aside.text) < 600
    assert parts.journal.message(aside.id) == bad


def test_a_fault_of_ours_sets_the_message_aside_and_does_not_come_back(
    parts: Any, message: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    parts.pile.put(message("a"))
    monkeypatch.setattr("hpcrunner.gateway.intake.admit_request", broken)
    assert parts.intake.drain(10) == 1
    (aside,) = parts.journal.recent(10)
    assert (aside.key, aside.state) == ("a", State.REJECTED)
    assert "fault in hpcrunner" in aside.text


def test_a_sealed_message_is_set_aside_while_no_key_is_configured(parts: Any) -> None:
    captured = json.loads((REQUESTS / "encrypted_0.0.49.json").read_text())
    parts.pile.put(json.dumps(captured["payload"]).encode())
    parts.intake.drain(10)
    (aside,) = parts.journal.recent(10)
    assert "sealed" in aside.text


def test_what_was_set_aside_keeps_the_key_its_sender_knows(
    parts: Any, message: Callable[..., bytes]
) -> None:
    parts.pile.put(with_member(message("mine"), "filename", "/etc/passwd"))
    parts.intake.drain(10)
    assert [e.key for e in parts.journal.find("mine")] == ["mine"]


def test_an_expired_lifetime_is_never_started(parts: Any, message: Callable[..., bytes]) -> None:
    document = json.loads(message("late"))
    document["config"]["experimentLifetime"] = "-10m"
    document["experiment"]["time_added"] = parts.clock.now
    parts.pile.put(json.dumps(document).encode())
    parts.intake.drain(10)
    (aside,) = parts.journal.recent(10)
    assert (aside.state, aside.reason) == (State.REJECTED, Reason.LIFETIME_EXPIRED)


def test_no_credential_is_logged_with_a_refused_message(
    parts: Any, message: Callable[..., bytes], caplog: pytest.LogCaptureFixture
) -> None:
    parts.pile.put(with_member(message("bad"), "filename", "../x"))
    parts.intake.drain(10)
    assert "set aside" in caplog.text
    assert "hush-hush" not in caplog.text
