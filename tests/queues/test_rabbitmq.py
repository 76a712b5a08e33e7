"""The RabbitMQ source against a real broker: nothing lost, nothing doubled, nobody disturbed."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pytest

from hpcrunner.queues.amqp import EXCHANGE
from hpcrunner.queues.contract import Delivery, QueueUnavailable
from hpcrunner.queues.rabbitmq import RabbitSource
from hpcrunner.queues.rabbitmq_publish import RabbitPublisher

if TYPE_CHECKING:
    from conftest import Clock, Lab

pytestmark = pytest.mark.rabbitmq

Eventually = Callable[..., None]


def bodies(deliveries: Sequence[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


def take_until(source: RabbitSource, count: int, eventually: Eventually) -> list[Delivery]:
    """What comes in several takes, as a gateway's loop makes them."""
    taken: list[Delivery] = []

    def enough() -> bool:
        taken.extend(source.take(count - len(taken)))
        return len(taken) >= count

    eventually(enough)
    return taken


def test_each_message_of_several_queues_arrives_once(lab: Lab, eventually: Eventually) -> None:
    sent = Counter()
    for queue in ("rmq_a", "rmq_b", "rmq_c"):
        for number in range(20):
            body = f"{queue} {number}".encode()
            lab.publisher.publish(queue, body)
            sent[(queue, body)] += 1
    source = lab.source()
    taken = take_until(source, 60, eventually)
    source.accept(taken)
    source.close()
    assert Counter((d.queue, d.body) for d in taken) == sent
    assert not any(d.redelivered for d in taken)
    assert lab.source().take(10) == []


def test_a_long_queue_does_not_starve_the_short_ones(lab: Lab) -> None:
    for number in range(30):
        lab.publisher.publish("rmq_long", b"long %d" % number)
    for queue in ("rmq_p", "rmq_q"):
        for number in range(3):
            lab.publisher.publish(queue, b"%d" % number)
    source = lab.source()
    assert Counter(d.queue for d in source.take(6)) == {"rmq_long": 2, "rmq_p": 2, "rmq_q": 2}
    one_at_a_time = [source.take(1)[0].queue for _ in range(3)]
    assert sorted(one_at_a_time) == ["rmq_long", "rmq_p", "rmq_q"]


def test_messages_of_one_queue_keep_their_order(lab: Lab) -> None:
    for number in range(20):
        lab.publisher.publish("rmq_a", b"%d" % number)
    source = lab.source()
    taken = source.take(7) + source.take(100)
    assert bodies(taken) == [b"%d" % number for number in range(20)]


def test_no_more_than_asked_for_is_ever_held(lab: Lab, eventually: Eventually) -> None:
    for number in range(25):
        lab.publisher.publish("rmq_a", b"%d" % number)
    source = lab.source()
    assert len(source.take(7)) == 7
    assert lab.ready("rmq_a") == 18
    eventually(lambda: lab.queue("rmq_a").get("messages_unacknowledged") == 7)
    other = lab.source()
    assert len(other.take(100)) == 18, "the rest is there for other gateways"


def test_unaccepted_messages_come_back_as_redelivered_after_a_forced_close(
    lab: Lab, eventually: Eventually
) -> None:
    for number in range(5):
        lab.publisher.publish("rmq_a", b"%d" % number)
    source = lab.source()
    first = source.take(5)
    source.accept(first[:2])
    lab.close_connections()
    source.accept(first[2:])
    again = take_until(source, 3, eventually)
    assert sorted(bodies(again)) == [b"2", b"3", b"4"]
    assert all(d.redelivered for d in again)
    source.accept(again)
    source.close()
    assert lab.ready("rmq_a") == 0


def test_deliveries_of_a_dead_connection_are_left_to_the_broker(
    lab: Lab, clock: Clock, eventually: Eventually
) -> None:
    lab.publisher.publish("rmq_a", b"x")
    source = lab.source(lab.relayed_url, clock=clock)
    first = source.take(5)
    lab.relay.cut()
    source.accept(first)
    source.give_back(first)
    clock.forward(60)
    eventually(lambda: lab.ready("rmq_a") == 1)
    again = take_until(source, 1, eventually)
    assert (again[0].body, again[0].redelivered) == (b"x", True)
    source.accept(first)
    source.accept(again)
    source.close()
    assert lab.ready("rmq_a") == 0


def test_an_unreachable_broker_is_one_line_and_retried_with_pauses(
    lab: Lab, clock: Clock, caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    caplog.set_level(logging.INFO)
    lab.publisher.publish("rmq_a", b"x")
    lab.relay.open = False
    source = lab.source(lab.relayed_url, clock=clock)
    attempts: list[int] = []
    for _ in range(600):
        assert source.take(5) == []
        attempts.append(lab.relay.connections)
        clock.forward(1)
    assert len(caplog.records) == 1
    assert 10 <= lab.relay.connections <= 30, "first in quick succession, then about twice a minute"
    assert attempts[60] >= 5
    lab.relay.open = True
    clock.forward(60)
    assert bodies(take_until(source, 1, eventually)) == [b"x"]
    assert [r.levelname for r in caplog.records] == ["WARNING", "INFO"]
    assert lab.password not in caplog.text


def test_a_cut_connection_is_survived(lab: Lab, clock: Clock, eventually: Eventually) -> None:
    source = lab.source(lab.relayed_url, clock=clock)
    for number in range(3):
        lab.publisher.publish("rmq_a", b"%d" % number)
        taken: list[Delivery] = []

        def come(taken: list[Delivery] = taken) -> bool:
            clock.forward(10)
            taken += source.take(5)
            return bool(taken)

        eventually(come)
        assert bodies(taken) == [b"%d" % number]
        source.accept(taken)
        eventually(lambda: lab.queue("rmq_a").get("messages") == 0)
        lab.relay.cut()
    assert lab.relay.connections == 3


def test_a_connection_cut_in_the_middle_of_a_take_loses_and_doubles_nothing(
    lab: Lab, clock: Clock, eventually: Eventually
) -> None:
    sent = {b"%d" % number for number in range(200)}
    for body in sorted(sent):
        lab.publisher.publish("rmq_a", body)
    source = lab.source(lab.relayed_url, clock=clock)
    assert source.take(0) == []
    lab.relay.cut_after = 5000
    assert source.take(500) == [], "what came is on its way back already"
    lab.relay.cut_after = float("inf")
    eventually(lambda: lab.ready("rmq_a") == 200)
    clock.forward(10)
    taken = take_until(source, 200, eventually)
    assert set(bodies(taken)) == sent
    assert 0 < sum(d.redelivered for d in taken) < 200


def test_a_connection_the_broker_gave_up_while_we_were_busy_is_made_anew(
    lab: Lab, clock: Clock, eventually: Eventually
) -> None:
    lab.publisher.publish("rmq_a", b"0")
    source = lab.source(f"{lab.relayed_url}?heartbeat=1", clock=clock)
    source.accept(source.take(5))
    # Two heartbeats missed, and the broker hangs up on us.
    eventually(lambda: lab.relay.hung_up == 1)
    lab.publisher.publish("rmq_a", b"1")
    assert source.take(5) == []
    clock.forward(10)
    assert bodies(source.take(5)) == [b"1"]


def test_a_wrong_password_is_one_line_and_no_loop(
    lab: Lab, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    source = lab.source(lab.url_of(lab.user, "s3cr%2Ft", lab.relay.port), clock=clock)
    for _ in range(240):
        assert source.take(5) == []
        clock.forward(1)
    assert lab.relay.connections == 1
    (record,) = caplog.records
    assert "login was refused" in record.getMessage()
    assert "--amqp-url" in record.getMessage()
    assert "s3cr" not in caplog.text


def test_a_virtual_host_that_is_not_there_is_said(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    source = lab.source(f"amqp://{lab.user}:{lab.password}@{lab.host}:{lab.port}/nowhere")
    assert source.take(5) == []
    assert "virtual host" in caplog.text


def test_a_queue_that_appears_while_running_is_found(lab: Lab, eventually: Eventually) -> None:
    source = lab.source()
    assert source.take(5) == []
    lab.publisher.publish("rmq_new", b"x")
    assert bodies(take_until(source, 1, eventually)) == [b"x"]


def test_a_deleted_queue_harms_nothing(lab: Lab, clock: Clock, eventually: Eventually) -> None:
    lab.publisher.publish("rmq_gone", b"old")
    for number in range(4):
        lab.publisher.publish("rmq_stays", b"%d" % number)
    source = lab.source(clock=clock, refresh=30.0)
    first = source.take(2)
    assert {d.queue for d in first} == {"rmq_gone", "rmq_stays"}
    lab.delete_queue("rmq_gone")
    second = source.take(2)  # the listing still has it, and asks for it
    assert bodies(second) == [b"1", b"2"]
    source.accept(first + second)
    clock.forward(60)
    assert bodies(source.take(9)) == [b"3"]
    assert lab.ready("rmq_stays") == 0
    lab.publisher.publish("rmq_gone", b"anew")
    clock.forward(60)
    again = take_until(source, 1, eventually)
    assert [(d.queue, d.body) for d in again] == [("rmq_gone", b"anew")]


def test_queues_of_others_are_never_touched(lab: Lab) -> None:
    publish = lab.publisher.publish
    publish("rmq_work", b"mine")
    publish("rmq_work_response", b"a report")
    publish("other_work", b"not matched")
    channel = lab.publisher._connection.channel()
    channel.queue_declare("rmq_elsewhere")
    channel.queue_bind("rmq_elsewhere", "amq.topic", routing_key="StudioML.rmq_elsewhere")
    channel.basic_publish("", "rmq_elsewhere", b"of another exchange")
    source = lab.source(match="^rmq_")
    assert bodies(source.take(10)) == [b"mine"]
    for queue in ("rmq_work_response", "other_work", "rmq_elsewhere"):
        assert lab.ready(queue) == 1


def test_what_is_given_back_reaches_another_consumer(lab: Lab, eventually: Eventually) -> None:
    for number in range(6):
        lab.publisher.publish("rmq_a", b"%d" % number)
    source = lab.source()
    taken = source.take(6)
    source.give_back([taken[1], taken[2], taken[5]])
    source.accept([taken[0], taken[3], taken[4]])
    other = lab.source()
    again = take_until(other, 3, eventually) + other.take(6)
    assert sorted(bodies(again)) == [b"1", b"2", b"5"]
    assert all(d.redelivered for d in again)


def test_closing_returns_what_is_unsettled(lab: Lab, eventually: Eventually) -> None:
    lab.publisher.publish("rmq_a", b"0")
    lab.publisher.publish("rmq_a", b"1")
    source = lab.source()
    taken = source.take(2)
    source.accept(taken[:1])
    source.close()
    other = lab.source()
    assert bodies(take_until(other, 1, eventually) + other.take(2)) == [b"1"]


def test_named_queues_need_no_management_and_may_come_later(
    lab: Lab, clock: Clock, caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    caplog.set_level(logging.INFO)
    lab.publisher.publish("rmq_there", b"0")
    lab.publisher.publish("rmq_unnamed", b"0")
    source = lab.source(queues=("rmq_later", "rmq_there"), clock=clock)
    taken = source.take(5)
    for _ in range(20):
        clock.forward(1)
        source.take(5)
    assert bodies(taken) == [b"0"]
    source.accept(taken)
    assert len(caplog.records) == 1
    assert "rmq_later is not there" in caplog.text
    lab.publisher.publish("rmq_later", b"late")
    clock.forward(10)
    assert bodies(take_until(source, 1, eventually)) == [b"late"]
    assert "rmq_later is there" in caplog.text


def test_a_forbidden_queue_is_one_line_and_disturbs_no_other(
    lab: Lab, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for queue in ("rmq_a", "rmq_forbidden", "rmq_z"):
        lab.publisher.publish(queue, queue.encode())
    source = lab.source(lab.add_user(read="^rmq_[az]$"), clock=clock, refresh=1.0)
    taken = source.take(9)
    assert sorted(bodies(taken)) == [b"rmq_a", b"rmq_z"]
    for _ in range(100):
        clock.forward(1)
        assert source.take(9) == []
    source.accept(taken)
    assert lab.ready("rmq_a") == lab.ready("rmq_z") == 0
    (record,) = caplog.records
    assert "rmq_forbidden" in record.getMessage()
    assert "403" in record.getMessage()


def test_a_stream_among_the_queues_does_not_cut_the_others_off_for_long(
    lab: Lab, clock: Clock, eventually: Eventually
) -> None:
    channel = lab.publisher._connection.channel()
    lab.publisher.publish("rmq_z", b"x")
    channel.queue_declare("rmq_s", durable=True, arguments={"x-queue-type": "stream"})
    channel.queue_bind("rmq_s", EXCHANGE, routing_key="StudioML.rmq_s")
    lab.publisher.publish("rmq_s", b"in a stream")
    source = lab.source(clock=clock)

    def come() -> bool:
        clock.forward(2)
        return bodies(source.take(5)) == [b"x"]

    eventually(come)


def test_known_queues_are_served_while_the_management_api_is_away(
    lab: Lab, clock: Clock, caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    lab.publisher.publish("rmq_a", b"0")
    source = lab.source(clock=clock, refresh=1.0)
    source.accept(take_until(source, 1, eventually))
    wrong = lab.source(management_url="http://127.0.0.1:1")
    assert wrong.take(5) == []
    assert "--amqp-mgt-url" in caplog.text
    caplog.clear()
    source._discovery._management = wrong._discovery._management  # type: ignore[union-attr]
    for _ in range(100):
        clock.forward(2)
        source.take(5)
    lab.publisher.publish("rmq_a", b"1")
    clock.forward(2)
    assert bodies(take_until(source, 1, eventually)) == [b"1"]
    assert len(caplog.records) == 1


def test_idle_queues_are_not_asked_at_every_take(lab: Lab, clock: Clock) -> None:
    for number in range(50):
        lab.publisher.declare(f"rmq_{number}")
    source = lab.source(lab.relayed_url, clock=clock, refresh=1e9)
    source.take(100)
    before = lab.relay.sent
    for _ in range(50):
        assert source.take(100) == []
    assert lab.relay.sent == before
    clock.forward(60)
    source.take(100)
    assert lab.relay.sent > before


def test_a_message_of_20_mb_arrives_whole(lab: Lab) -> None:
    body = bytes(range(256)) * (20 * 4096)
    lab.publisher.publish("rmq_a", body)
    source = lab.source()
    assert [d.body == body for d in source.take(5)] == [True]


def test_an_empty_message_is_delivered_as_no_bytes(lab: Lab) -> None:
    lab.publisher.publish("rmq_a", b"")
    assert bodies(lab.source().take(5)) == [b""]


def test_many_queues_share_few_channels(lab: Lab) -> None:
    url = f"{lab.url}?channel_max=8"
    for number in range(20):
        lab.publisher.publish(f"rmq_{number:02}", b"%d" % number)
    source = lab.source(url)
    seen: set[str] = set()
    for _ in range(20):
        taken = source.take(100)
        seen |= {d.queue for d in taken}
        source.accept(taken)
    assert len(seen) == 20


def test_the_name_for_people_holds_no_credentials(lab: Lab) -> None:
    source = lab.source()
    assert source.name.startswith(f"amqp://{lab.host}:{lab.port}/queues%2F")
    assert lab.password not in repr(source) + source.name


def test_requests_are_published_as_the_released_client_does(lab: Lab) -> None:
    lab.publisher.publish("rmq_a", b"{}")
    with RabbitPublisher(lab.url, persistent=True) as publisher:
        publisher.publish("rmq_durable", b"{}")
    channel = lab.publisher._connection.channel()
    found = {}
    for queue in ("rmq_a", "rmq_durable"):
        method, properties, body = channel.basic_get(queue)
        found[queue] = properties.delivery_mode
        assert (method.exchange, method.routing_key) == ("StudioML.topic", f"StudioML.{queue}")
        assert (properties.app_id, properties.content_type) == ("studioml", "application/json")
        assert properties.message_id is properties.reply_to is properties.priority is None
        assert body == b"{}"
    assert found == {"rmq_a": None, "rmq_durable": 2}
    assert lab.queue("rmq_a")["durable"] is False
    assert lab.queue("rmq_durable")["durable"] is True
    # The client's own declaration of the exchange must still fit.
    channel.exchange_declare(EXCHANGE, exchange_type="topic", durable=True, auto_delete=True)


def test_a_queue_made_by_somebody_else_serves_as_it_is(lab: Lab) -> None:
    channel = lab.publisher._connection.channel()
    channel.queue_declare("rmq_a", durable=True, arguments={"x-max-length": 5})
    lab.publisher.publish("rmq_a", json.dumps({"experiment": {}}).encode())
    assert lab.ready("rmq_a") == 1


def test_a_refused_publisher_says_why_and_no_secret(lab: Lab) -> None:
    with pytest.raises(QueueUnavailable) as refused:
        RabbitPublisher(lab.url_of(lab.user, "s3cret"))
    assert "login was refused" in refused.value.line()
    assert "s3cret" not in refused.value.line()
    with pytest.raises(QueueUnavailable, match="refused"):
        RabbitPublisher(f"amqp://{lab.host}:1")


def test_publishing_to_a_queue_deleted_meanwhile_is_an_error_and_not_silence(lab: Lab) -> None:
    lab.publisher.declare("rmq_keeps_the_exchange")
    lab.publisher.publish("rmq_a", b"{}")
    with RabbitPublisher(lab.url) as other:
        other.delete("rmq_a")
    with pytest.raises(QueueUnavailable, match="gone"):
        lab.publisher.publish("rmq_a", b"{}")
    lab.publisher.publish("rmq_a", b"{}")
    assert lab.ready("rmq_a") == 1


def test_a_settled_delivery_may_be_settled_again_without_harm(lab: Lab) -> None:
    lab.publisher.publish("rmq_a", b"0")
    lab.publisher.publish("rmq_a", b"1")
    source = lab.source()
    taken = source.take(1)
    source.accept(taken)
    source.accept(taken)
    source.give_back(taken)
    assert bodies(source.take(5)) == [b"1"]
