"""Publishing to response queues on SQS (moto's server)."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from hpcrunner.queues.aws import AwsAccess, AwsKeys
from hpcrunner.queues.contract import Answer
from hpcrunner.queues.responders import responders_from
from hpcrunner.queues.sources import QueueOptions, sources_from
from hpcrunner.queues.sqs_respond import SqsResponder

REGION = "eu-central-1"
ACCESS = AwsAccess("aws_test", REGION, AwsKeys("AKIDTEST", "s3cr3t"))
QUEUE = "sqs_mine_response"


@pytest.fixture
def sqs(sqs_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An emptied SQS, as the experimenter uses it."""
    reset = urllib.request.Request(f"{sqs_url}/moto-api/reset", method="POST")
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(reset).close()
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", sqs_url)
    return boto3.client(
        "sqs",
        endpoint_url=sqs_url,
        region_name=REGION,
        aws_access_key_id="client",
        aws_secret_access_key="client",
    )


@pytest.fixture
def responder() -> Iterator[SqsResponder]:
    made = SqsResponder(ACCESS)
    yield made
    made.close()


def waiting(sqs: Any, queue: str = QUEUE) -> list[str]:
    url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
    found: list[str] = []
    while came := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
        found += [message["Body"] for message in came]
    return found


def test_reports_arrive(sqs: Any, responder: SqsResponder) -> None:
    sqs.create_queue(QueueName=QUEUE)
    answers = [responder.publish(QUEUE, f"r{number}") for number in range(5)]
    assert answers == [Answer.PUBLISHED] * 5
    assert sorted(waiting(sqs)) == [f"r{number}" for number in range(5)]


def test_a_response_queue_is_never_made(sqs: Any, responder: SqsResponder) -> None:
    assert responder.publish(QUEUE, "x") is Answer.NO_QUEUE
    assert sqs.list_queues().get("QueueUrls", []) == []
    sqs.create_queue(QueueName=QUEUE)
    assert responder.publish(QUEUE, "y") is Answer.PUBLISHED


def test_a_queue_deleted_in_between_is_gone(sqs: Any, responder: SqsResponder) -> None:
    url = sqs.create_queue(QueueName=QUEUE)["QueueUrl"]
    assert responder.publish(QUEUE, "x") is Answer.PUBLISHED
    sqs.delete_queue(QueueUrl=url)
    assert responder.publish(QUEUE, "y") is Answer.NO_QUEUE


@pytest.mark.parametrize("name", ["sqs_mine.fifo_response", "x" * 81, "sqs mine", ""])
def test_a_name_that_no_standard_queue_can_have_is_no_queue(name: str) -> None:
    assert SqsResponder(ACCESS).publish(name, "x") is Answer.NO_QUEUE


def test_what_is_too_large_is_told_apart(sqs: Any, responder: SqsResponder) -> None:
    sqs.create_queue(QueueName=QUEUE)
    assert responder.publish(QUEUE, "x" * 2_000_000) is Answer.TOO_LARGE
    assert responder.publish(QUEUE, "x" * 200_000) is Answer.PUBLISHED


def test_a_server_that_is_away_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:9")
    monkeypatch.setattr("hpcrunner.queues.aws._TRIES", 1)
    responder = SqsResponder(ACCESS, timeout=2)
    assert [responder.publish(QUEUE, "x") for _ in range(2)] == [Answer.SERVER_AWAY] * 2
    assert caplog.text.count("reports:") == 1
    assert "s3cr3t" not in caplog.text


def credentials(root: Path, name: str, region: str) -> None:
    folder = root / name
    folder.mkdir()
    (folder / "config").write_text(f"[default]\nregion={region}\n")
    (folder / "credentials").write_text(
        "[default]\naws_access_key_id = AKID\naws_secret_access_key = s3cr3t\n"
    )
    (folder / "credentials").chmod(0o600)
    (folder / "config").chmod(0o600)


def test_the_way_back_is_found_by_the_name_that_deliveries_carry(
    sqs: Any, tmp_path: Path, coming: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two accounts in folders, and RabbitMQ; each delivery leads to its own."""
    monkeypatch.setattr("hpcrunner.queues.responders.PERIOD", 0.0)
    certs = tmp_path / "certs"
    certs.mkdir()
    credentials(certs, "one", REGION)
    options = QueueOptions(
        gateway_id="g",
        amqp_url="amqp://user:pw@127.0.0.1:1/%2F",
        queues=("sqs_mine",),
        sqs_certs=str(certs),
        aws_region="eu-west-1",
    )
    rabbit, watched, default = sources_from(options)
    responders = responders_from(options)
    for source in (rabbit, default):
        found = responders.find(source.name)
        assert found is not None
        assert found.name == source.name
    sqs.create_queue(QueueName="sqs_mine")
    sqs.send_message(QueueUrl=sqs.get_queue_url(QueueName="sqs_mine")["QueueUrl"], MessageBody="x")
    try:
        taken = coming(watched, 1)
    finally:
        watched.close()
    first = responders.find(taken[0].server)
    assert first is not None
    assert responders.find(taken[0].server) is first
    sqs.create_queue(QueueName=QUEUE)
    assert first.publish(QUEUE, "y") is Answer.PUBLISHED
    (certs / "one" / "credentials").unlink()
    assert responders.find(taken[0].server) is None
    assert responders.find("nowhere") is None
    responders.close()
