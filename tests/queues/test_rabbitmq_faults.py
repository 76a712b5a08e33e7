"""A real broker that dies, hangs up, forbids and forgets: nothing is lost, and nobody crashes.

The broker is one of these tests' own, since what is done to it would disturb others.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dev.cluster import files, process, rabbitmq
from dev.cluster.layout import LOOPBACK, PORTS_USED, Layout
from dev.cluster.settings import Secrets
from hpcrunner.queues.contract import Delivery
from hpcrunner.queues.rabbitmq import RabbitSource
from hpcrunner.queues.rabbitmq_publish import RabbitPublisher

if TYPE_CHECKING:
    from conftest import Clock, Lab

pytestmark = pytest.mark.rabbitmq

Eventually = Callable[..., None]


@dataclass(frozen=True)
class Broker:
    """RabbitMQ as the development cluster runs it, in a folder and on ports of its own."""

    layout: Layout
    secrets: Secrets

    @property
    def facts(self) -> dict[str, object]:
        return {
            "host": LOOPBACK,
            "port": self.layout.amqp_port,
            "user": self.secrets.rabbitmq_user,
            "password": self.secrets.rabbitmq_password,
            "management_url": f"http://{LOOPBACK}:{self.layout.management_port}",
        }

    def start(self) -> None:
        rabbitmq.start(self.layout, self.secrets)
        rabbitmq.wait(self.layout, self.secrets)

    def kill(self) -> None:
        """SIGKILL: whatever is not on disk is gone."""
        assert process.kill(self.layout, "rabbitmq")

    def eval(self, erlang: str) -> None:
        daemon = rabbitmq.daemons(self.layout)[1]
        process.run(
            ["/usr/lib/rabbitmq/bin/rabbitmqctl", "--quiet", "eval", erlang],
            environ=daemon.environ,
            user=daemon.user,
        )

    def stop(self) -> None:
        for daemon in reversed(rabbitmq.daemons(self.layout)):
            process.stop(self.layout, daemon)
        process.sweep(self.layout)


@pytest.fixture(scope="module")
def own_broker() -> Iterator[Broker]:
    if os.geteuid() != 0:
        pytest.skip("a broker of one's own needs root")
    if not shutil.which("rabbitmqctl"):
        pytest.skip("RabbitMQ is not installed: 'make cluster' does it")
    folder = Path(tempfile.mkdtemp(prefix="hpcrunner-rabbitmq-"))
    folder.chmod(0o755)  # the broker runs as a user of its own
    layout = Layout(folder, _free_ports())
    for part in (layout.pids, layout.log):
        files.folder(part)
    broker = Broker(layout, Secrets.load(layout))
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()
        shutil.rmtree(folder, ignore_errors=True)  # what was killed may still be ending


@pytest.fixture(scope="module")
def broker_facts(own_broker: Broker) -> dict[str, object]:
    """What the ``lab`` works on."""
    return own_broker.facts


@pytest.fixture
def broker(own_broker: Broker) -> Iterator[Broker]:
    """The broker, alive again whatever a test has done to it."""
    yield own_broker
    own_broker.start()


@pytest.fixture
def durable(broker: Broker, lab: Lab) -> Iterator[RabbitPublisher]:
    """A publisher of queues and messages that outlive the broker."""
    with RabbitPublisher(lab.url, persistent=True) as publisher:
        yield publisher


def _free_ports() -> int:
    # Below those of dev.queue_servers.free_port, which others look for meanwhile.
    for base in range(17000, 22000, PORTS_USED):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in range(base, base + PORTS_USED):
                stack.enter_context(socket.create_server((LOOPBACK, port)))
            return base
    raise AssertionError("no free ports")


def bodies(deliveries: Sequence[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


def taker(source: RabbitSource, clock: Clock) -> Callable[[], list[Delivery]]:
    """Takes as a gateway's loop does, while the clock runs so fast that no pause is felt."""

    def take() -> list[Delivery]:
        clock.forward(5)
        return source.take(100)

    return take


def all_of(
    source: RabbitSource, clock: Clock, wanted: set[bytes], eventually: Eventually
) -> list[Delivery]:
    """Everything that comes until all of ``wanted`` have been seen."""
    taken: list[Delivery] = []
    take = taker(source, clock)

    def enough() -> bool:
        taken.extend(take())
        return wanted <= set(bodies(taken))

    eventually(enough, 180)
    return taken


def test_what_a_killed_broker_had_handed_out_comes_again_marked_and_nothing_is_lost(
    broker: Broker,
    lab: Lab,
    durable: RabbitPublisher,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    eventually: Eventually,
) -> None:
    caplog.set_level(logging.INFO)
    sent = [b"%d" % number for number in range(6)]
    for body in sent:
        durable.publish("rmq_a", body)
    source = lab.source(clock=clock)
    taken = source.take(4)
    broker.kill()
    source.accept(taken[:1])
    source.give_back(taken[1:2])
    for _ in range(20):
        assert taker(source, clock)() == []
    broker.start()
    again = all_of(source, clock, set(sent), eventually)
    assert sorted(bodies(again)) == sent, "each once, the unheard acknowledgement's too"
    # A broker that died cannot know what it had handed out: it marks all that it recovers.
    assert {d.body for d in again if d.redelivered} >= set(sent[:4])
    source.accept(again)
    source.close()
    assert lab.source().take(10) == []
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) <= 3, "broken off, refused, no management API: each said once"


def test_a_gateway_may_start_before_its_broker(
    broker: Broker, lab: Lab, durable: RabbitPublisher, clock: Clock, eventually: Eventually
) -> None:
    durable.publish("rmq_a", b"0")
    broker.kill()
    source = lab.source(clock=clock)
    assert taker(source, clock)() == []
    broker.start()
    assert bodies(all_of(source, clock, {b"0"}, eventually)) == [b"0"]


def test_messages_in_hand_for_too_long_come_again_after_the_broker_closes_the_channel(
    broker: Broker, lab: Lab, clock: Clock, eventually: Eventually
) -> None:
    broker.eval("application:set_env(rabbit, consumer_timeout, 1500).")
    broker.eval("application:set_env(rabbit, channel_tick_interval, 100).")
    try:
        for body in (b"0", b"1"):
            lab.publisher.publish("rmq_a", body)
        source = lab.source(clock=clock)
        taken = source.take(10)
        assert bodies(taken) == [b"0", b"1"]
        log = broker.layout.log / "rabbitmq.log"
        eventually(lambda: "delivery acknowledgement on channel" in log.read_text())
        source.accept(taken)
    finally:
        broker.eval("application:set_env(rabbit, consumer_timeout, 1800000).")
        broker.eval("application:set_env(rabbit, channel_tick_interval, 60000).")
    again = all_of(source, clock, {b"0", b"1"}, eventually)
    assert sorted(bodies(again)) == [b"0", b"1"]
    assert all(d.redelivered for d in again)
    source.accept(again)
    eventually(lambda: lab.queue("rmq_a").get("messages") == 0)


def test_a_queue_deleted_while_its_messages_are_in_hand_is_forgotten(
    lab: Lab, clock: Clock, caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    for queue in ("rmq_gone", "rmq_stays"):
        lab.publisher.publish(queue, queue.encode())
    source = lab.source(clock=clock, refresh=1.0)
    taken = all_of(source, clock, {b"rmq_gone", b"rmq_stays"}, eventually)
    lab.delete_queue("rmq_gone")
    source.accept(taken)
    assert lab.ready("rmq_stays") == 0
    for _ in range(10):
        assert taker(source, clock)() == []
    assert set(source._taps) == {"rmq_stays"}
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
    lab.publisher.publish("rmq_gone", b"anew")
    assert bodies(all_of(source, clock, {b"anew"}, eventually)) == [b"anew"]


def test_known_queues_are_served_while_the_management_plugin_is_down(
    broker: Broker, lab: Lab, clock: Clock, eventually: Eventually
) -> None:
    lab.publisher.publish("rmq_a", b"0")
    source = lab.source(clock=clock)
    source.accept(all_of(source, clock, {b"0"}, eventually))
    broker.eval("application:stop(rabbitmq_management).")
    try:
        lab.publisher.publish("rmq_a", b"1")
        lab.publisher.publish("rmq_new", b"2")
        source.accept(all_of(source, clock, {b"1"}, eventually))
        assert taker(source, clock)() == []
    finally:
        broker.eval("application:start(rabbitmq_management).")
    clock.forward(60)
    assert bodies(all_of(source, clock, {b"2"}, eventually)) == [b"2"]


def test_a_broker_short_of_memory_still_hands_out_and_settles(
    broker: Broker, lab: Lab, clock: Clock, eventually: Eventually
) -> None:
    for number in range(5):
        lab.publisher.publish("rmq_a", b"%d" % number)
    source = lab.source(clock=clock)
    broker.eval("vm_memory_monitor:set_vm_memory_high_watermark(0.000001).")
    try:
        eventually(lambda: _alarmed(lab))
        taken = all_of(source, clock, {b"%d" % number for number in range(5)}, eventually)
        source.accept(taken)
        eventually(lambda: lab.queue("rmq_a").get("messages") == 0)
    finally:
        broker.eval("vm_memory_monitor:set_vm_memory_high_watermark(0.4).")
    eventually(lambda: not _alarmed(lab))


def _alarmed(lab: Lab) -> bool:
    nodes = lab.api("GET", "/nodes")
    assert isinstance(nodes, list)
    return any(node.get("mem_alarm") for node in nodes)


def test_a_user_whose_rights_are_withdrawn_is_told_once_and_served_when_they_are_back(
    broker: Broker,
    lab: Lab,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    eventually: Eventually,
) -> None:
    lab.publisher.publish("rmq_a", b"0")
    url = lab.add_user(read=".*")
    user = lab._users[-1]
    source = lab.source(url, clock=clock, queues=("rmq_a",))
    taken = source.take(5)
    lab.api("DELETE", f"/permissions/{lab._escaped}/{user}")
    lab.close_connections()
    source.accept(taken)
    for _ in range(200):
        assert taker(source, clock)() == []
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(said) == 2, "the lost connection, and why there is no other"
    assert "virtual host" in said[1]
    lab.allow(user)
    clock.forward(600)
    again = all_of(source, clock, {b"0"}, eventually)
    assert [(d.body, d.redelivered) for d in again] == [(b"0", True)]


@pytest.mark.parametrize("after", [100, 520], ids=["before the login", "before it was tuned"])
def test_a_connection_that_breaks_off_during_the_login_is_tried_again_soon(
    lab: Lab, clock: Clock, after: int, eventually: Eventually
) -> None:
    lab.publisher.publish("rmq_a", b"0")
    source = lab.source(lab.relayed_url, clock=clock)
    # A broker that dies just then leaves the same traces as one that refuses without a word.
    lab.relay.cut_after = after
    assert source.take(5) == []
    lab.relay.cut_after = float("inf")
    assert source.take(5) == [], "not at once"
    clock.forward(5)
    assert bodies(source.take(5)) == [b"0"]
