"""Publishing to response queues on a real RabbitMQ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hpcrunner.queues.contract import Answer
from hpcrunner.queues.rabbitmq_respond import RabbitResponder

pytestmark = pytest.mark.rabbitmq

QUEUE = "rmq_mine_response"


@pytest.fixture
def responder(lab: Any) -> Iterator[RabbitResponder]:
    made = RabbitResponder(lab.relayed_url)
    yield made
    made.close()


def waiting(lab: Any, queue: str = QUEUE) -> list[tuple[Any, str]]:
    found = []
    channel = lab.publisher._connection.channel()
    while True:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            channel.close()
            return found
        found.append((properties, body.decode()))


def test_reports_arrive_in_order_as_text(lab: Any, responder: RabbitResponder) -> None:
    lab.publisher.declare(QUEUE)
    for number in range(20):
        assert responder.publish(QUEUE, f"r{number}") is Answer.PUBLISHED
    came = waiting(lab)
    assert [body for _, body in came] == [f"r{n}" for n in range(20)]
    assert {properties.content_type for properties, _ in came} == {"text/plain"}
    assert lab.relay.connections == 1


def test_a_response_queue_is_never_made(lab: Any, responder: RabbitResponder) -> None:
    lab.publisher.declare("rmq_mine")
    assert responder.publish(QUEUE, "x") is Answer.NO_QUEUE
    assert [q["name"] for q in lab.api("GET", f"/queues/{lab._escaped}")] == ["rmq_mine"]
    lab.publisher.declare(QUEUE)
    assert responder.publish(QUEUE, "y") is Answer.PUBLISHED


def test_without_the_exchange_there_is_no_queue(lab: Any, responder: RabbitResponder) -> None:
    assert responder.publish(QUEUE, "x") is Answer.NO_QUEUE
    assert responder.publish(QUEUE, "x") is Answer.NO_QUEUE


def test_a_queue_that_nobody_bound_is_reached_by_its_name(
    lab: Any, responder: RabbitResponder
) -> None:
    channel = lab.publisher._connection.channel()
    channel.queue_declare(QUEUE)
    channel.close()
    assert responder.publish(QUEUE, "x") is Answer.PUBLISHED
    assert [body for _, body in waiting(lab)] == ["x"]


def test_a_queue_deleted_in_between_is_gone(lab: Any, responder: RabbitResponder) -> None:
    lab.publisher.declare(QUEUE)
    assert responder.publish(QUEUE, "x") is Answer.PUBLISHED
    lab.delete_queue(QUEUE)
    assert responder.publish(QUEUE, "y") is Answer.NO_QUEUE


def test_a_full_queue_refuses_and_takes_again_when_there_is_room(
    lab: Any, responder: RabbitResponder, caplog: pytest.LogCaptureFixture
) -> None:
    channel = lab.publisher._connection.channel()
    bounds = {"x-max-length": 2, "x-overflow": "reject-publish"}
    channel.queue_declare(QUEUE, arguments=bounds)
    channel.close()
    answers = [responder.publish(QUEUE, "x") for _ in range(4)]
    assert answers[0] is Answer.PUBLISHED
    assert answers[-1] is Answer.QUEUE_REFUSES
    assert caplog.text.count("takes no more") == 1
    assert waiting(lab)
    assert responder.publish(QUEUE, "x") is Answer.PUBLISHED


def test_a_broker_that_is_away_is_said_once_and_found_again(
    lab: Any, responder: RabbitResponder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    lab.publisher.declare(QUEUE)
    assert responder.publish(QUEUE, "x") is Answer.PUBLISHED
    lab.relay.open = False
    lab.relay.cut()
    assert [responder.publish(QUEUE, "y") for _ in range(3)][1:] == [Answer.SERVER_AWAY] * 2
    assert responder.publish("another", "y") is Answer.SERVER_AWAY
    lab.relay.open = True
    assert responder.publish(QUEUE, "z") is Answer.PUBLISHED
    assert caplog.text.count("connected again") == 1
    assert [body for _, body in waiting(lab)] == ["x", "z"]


def test_a_user_who_may_not_publish_is_refused(lab: Any) -> None:
    lab.publisher.declare(QUEUE)
    url = lab.add_user(read=".*")
    user = url.split("//")[1].split(":")[0]
    grant = {"configure": "", "write": "^$", "read": ".*"}
    lab.api("PUT", f"/permissions/{lab._escaped}/{user}", grant)
    responder = RabbitResponder(url)
    assert responder.publish(QUEUE, "x") is Answer.QUEUE_REFUSES
    responder.close()
