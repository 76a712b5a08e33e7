"""The thread that waits at a server: it takes no more than there is room for, and loses nothing.

The server here is scripted, because these are faults and moments that a real one gives to nobody
on demand. SQS and Pub/Sub themselves are in test_sqs.py and test_pubsub.py.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pytest

from hpcrunner.queues import listening
from hpcrunner.queues.contract import Delivery, QueueUnavailable, Served
from hpcrunner.queues.listening import (
    FRESH,
    ListeningSource,
    LoginRefused,
    QueueGone,
    QueueRefused,
)

if TYPE_CHECKING:
    from conftest import Clock

Eventually = Callable[..., None]
Coming = Callable[[ListeningSource, int], list[Delivery]]


class Scripted:
    """Queues in memory, and faults on demand."""

    name = "scripted"
    most_at_once = 10
    refresh = 60.0

    def __init__(self) -> None:
        self.content: dict[str, list[bytes]] = {"a": []}
        self.faults: list[Exception] = []
        self.listing_faults: list[Exception] = []
        self.broken: dict[str, Exception] = {}
        self.settled: list[bytes] = []
        self.returned: list[bytes] = []
        self.receives: list[tuple[str, int, float]] = []
        self.hold_back = threading.Event()  # while clear, a receive does not come back
        self.hold_back.set()
        self.held_back = threading.Event()  # one that must wait for that is there
        self.answered = 0  # receives that came back
        self.closed = threading.Event()

    def queues(self) -> Mapping[str, str]:
        if self.listing_faults:
            raise self.listing_faults.pop(0)
        return {name: name for name in list(self.content)}

    def receive(self, queue: str, most: int, wait: float) -> list[Delivery]:
        self.receives.append((queue, most, wait))
        if not self.hold_back.is_set():
            self.held_back.set()
            assert self.hold_back.wait(60)
        try:
            return self._received(queue, most, wait)
        finally:
            self.answered += 1

    def _received(self, queue: str, most: int, wait: float) -> list[Delivery]:
        if self.faults:
            raise self.faults.pop(0)
        if queue in self.broken:
            raise self.broken[queue]
        # Taken out of the very list: a test may lay down another at any moment.
        waiting = self.content.get(queue)
        if waiting is None:
            raise QueueGone("gone")
        came = waiting[:most]
        del waiting[:most]
        if not came:
            time.sleep(min(wait, 0.02))
        return [Delivery(queue, body) for body in came]

    def settle(self, deliveries: Sequence[Delivery]) -> int:
        self.settled += [d.body for d in deliveries]
        return 0

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        time.sleep(0.02)
        assert not self.closed.is_set(), "the connection is needed for this"
        self.returned += [d.body for d in deliveries]

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def server() -> Scripted:
    return Scripted()


@pytest.fixture
def source(
    server: Scripted, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ListeningSource]:
    # Of real seconds, which a busy machine takes for a thread's few steps.
    monkeypatch.setattr(listening, "_LONGEST_TAKE", 120.0)
    made = ListeningSource("scripted", "sqs", lambda: server, clock)
    yield made
    server.hold_back.set()
    made.close()


def test_what_streams_in_comes_in_one_take(server: Scripted, source: ListeningSource) -> None:
    server.content["a"] = [b"%d" % n for n in range(95)]
    taken = source.take(1000)
    assert [d.body for d in taken] == [b"%d" % n for n in range(95)]
    source.accept(taken)
    assert len(server.settled) == 95
    source.accept(taken)
    assert len(server.settled) == 95, "what is settled is settled"


def test_no_more_is_received_than_there_is_room_for(
    server: Scripted, source: ListeningSource, eventually: Eventually
) -> None:
    server.content["a"] = [b"x"] * 100
    assert len(source.take(25)) == 25
    assert len(server.content["a"]) == 75
    assert max(most for _, most, _ in server.receives) <= 10


def test_where_there_is_no_room_nothing_is_asked(
    server: Scripted, source: ListeningSource, eventually: Eventually
) -> None:
    assert source.take(0) == []
    source.take(5)
    eventually(lambda: len(server.receives) >= 1)
    server.hold_back.clear()
    assert server.held_back.wait(60)
    source.take(0)
    server.hold_back.set()
    eventually(lambda: server.answered == len(server.receives) and not _receiving(server))
    before = len(server.receives)
    server.content["a"] = [b"x"]
    for _ in range(20):
        assert source.take(0) == []
        time.sleep(0.01)
    assert len(server.receives) == before
    assert server.content["a"] == [b"x"]


def _receiving(server: Scripted) -> bool:
    """Whether the thread still asks."""
    before = len(server.receives)
    time.sleep(0.1)
    return len(server.receives) != before


def test_a_gateway_that_asks_no_more_is_fetched_nothing_for(
    server: Scripted, source: ListeningSource, clock: Clock, eventually: Eventually
) -> None:
    source.take(5)
    eventually(lambda: bool(server.receives))
    clock.forward(3600)
    eventually(lambda: server.answered == len(server.receives) and not _receiving(server))
    server.content["a"] = [b"x"]
    assert not _receiving(server)
    taken: list[Delivery] = []
    eventually(lambda: bool(taken or taken.extend(source.take(5)) or taken))


def test_what_has_waited_for_long_is_left_to_the_server(
    server: Scripted, source: ListeningSource, clock: Clock, eventually: Eventually
) -> None:
    source.take(5)
    server.content["a"] = [b"old"]
    eventually(lambda: _kept(source) == 1)
    clock.forward(FRESH + 1)  # somebody else may have it any moment
    assert source.take(5) == []
    assert server.returned == [], "it returns by itself, and may be somebody's already"


def test_closing_gives_back_what_nobody_took_and_what_nobody_settled(
    server: Scripted, source: ListeningSource, eventually: Eventually, coming: Coming
) -> None:
    server.content["a"] = [b"taken"]
    assert len(coming(source, 1)) == 1
    source.take(5)
    server.content["a"] = [b"waits"]
    eventually(lambda: _kept(source) == 1)
    source.close()
    assert server.returned == [b"taken", b"waits"]
    assert server.closed.wait(60)


def _kept(source: ListeningSource) -> int:
    assert source._listener is not None
    return len(source._listener._waiting)


def test_what_comes_after_closing_is_given_back(
    server: Scripted, source: ListeningSource, eventually: Eventually
) -> None:
    source.take(5)
    eventually(lambda: bool(server.receives))
    server.hold_back.clear()
    assert server.held_back.wait(60)
    source.close()
    server.content["a"] = [b"late"]
    server.hold_back.set()
    eventually(lambda: server.returned == [b"late"])
    assert server.closed.wait(60)


def test_a_take_after_closing_listens_again(
    server: Scripted, source: ListeningSource, coming: Coming
) -> None:
    source.take(5)
    source.close()
    assert server.closed.wait(60)
    server.closed.clear()
    server.content["a"] = [b"x"]
    assert [d.body for d in coming(source, 1)] == [b"x"]


def test_given_back_is_not_settled(server: Scripted, source: ListeningSource) -> None:
    server.content["a"] = [b"0", b"1"]
    first, second = source.take(2)
    source.give_back([first])
    source.accept([first, second])
    assert (server.returned, server.settled) == ([b"0"], [b"1"])


def test_a_server_that_is_away_is_one_line_and_asked_with_pauses(
    server: Scripted,
    source: ListeningSource,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    eventually: Eventually,
) -> None:
    caplog.set_level(logging.INFO)
    server.listing_faults = [QueueUnavailable("no route", where="scripted") for _ in range(50)]
    for _ in range(20):
        assert source.take(5) == []
        clock.forward(1)
        time.sleep(0.01)
    assert len(server.listing_faults) >= 40, "pauses grow"
    assert [r.getMessage() for r in caplog.records] == ["scripted: no route"]
    assert source.served().unlisted >= 1
    server.listing_faults = []
    server.content["a"] = [b"x"]
    eventually(lambda: bool(clock.forward(10) or source.take(5)))
    assert "answers again" in caplog.text
    assert source.served().queues == ("a",)


def test_a_refused_login_is_not_tried_every_minute(
    server: Scripted, source: ListeningSource, clock: Clock, eventually: Eventually
) -> None:
    server.listing_faults = [LoginRefused("no") for _ in range(9)]
    source.take(5)
    eventually(lambda: len(server.listing_faults) == 8)
    for _ in range(28):
        clock.forward(10)
        source.take(5)
        time.sleep(0.005)
    assert len(server.listing_faults) == 8


def test_a_fault_of_ours_in_the_thread_does_not_end_it(
    server: Scripted,
    source: ListeningSource,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    eventually: Eventually,
) -> None:
    server.faults = [KeyError("Body")]
    server.content["a"] = [b"x"]
    assert source.take(5) == []
    eventually(lambda: "a fault in hpcrunner" in caplog.text)
    eventually(lambda: bool(clock.forward(10) or source.take(5)))


def test_a_forbidden_queue_is_one_line_and_disturbs_no_other(
    server: Scripted,
    source: ListeningSource,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    coming: Coming,
) -> None:
    server.content = {"a": [b"0"], "forbidden": [], "z": [b"1"]}
    server.broken["forbidden"] = QueueRefused("not yours", where="scripted: queue forbidden")
    assert {d.body for d in coming(source, 2)} == {b"0", b"1"}
    for _ in range(30):
        clock.forward(10)
        source.take(5)
        time.sleep(0.01)
    lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert lines == ["scripted: queue forbidden: not yours; skipped"]


def test_a_vanished_queue_is_dropped_without_a_warning(
    server: Scripted,
    source: ListeningSource,
    caplog: pytest.LogCaptureFixture,
    eventually: Eventually,
    clock: Clock,
    coming: Coming,
) -> None:
    caplog.set_level(logging.INFO)
    server.content = {"a": [], "gone": []}
    source.take(5)
    eventually(lambda: source.served().queues == ("a", "gone"))
    del server.content["gone"]
    eventually(lambda: source.served().queues == ("a",))
    assert all(r.levelno < logging.WARNING for r in caplog.records)
    assert "queue gone is gone" in caplog.text
    server.content["gone"] = [b"anew"]
    clock.forward(61)
    assert [d.body for d in coming(source, 1)] == [b"anew"]


def test_huge_messages_do_not_fill_the_memory(
    server: Scripted, source: ListeningSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "_MOST_BYTES", 1000)
    server.content["a"] = [bytes(200) for _ in range(100)]
    assert len(source.take(100)) <= 15
    assert len(server.content["a"]) >= 75


def test_what_is_served_is_counted_over_all_its_lives(
    server: Scripted, source: ListeningSource, eventually: Eventually
) -> None:
    assert source.served() == Served("sqs")
    source.take(1)
    eventually(lambda: source.served() == Served("sqs", ("a",), 1, 0))
    source.close()
    assert server.closed.wait(60)
    server.closed.clear()
    assert source.served() == Served("sqs", (), 1, 0)
    source.take(1)
    eventually(lambda: source.served() == Served("sqs", ("a",), 2, 0))
