"""The doctor asks real queue servers, by the gateway's options, and takes no message from them."""

from __future__ import annotations

from typing import Any

import boto3
import pytest

from hpcrunner.doctor.brokers import judge_brokers
from hpcrunner.doctor.finding import Finding, Verdict
from hpcrunner.queues.sources import QueueOptions


def asked(**options: Any) -> Finding:
    (finding,) = judge_brokers(QueueOptions(gateway_id="doctor", **options), {})
    return finding


@pytest.mark.rabbitmq
def test_rabbitmq_is_asked_for_its_queues(lab: Any) -> None:
    lab.publisher.publish("rmq_mine", b"{}")
    there = {"amqp_url": lab.url, "amqp_mgt_url": lab.management_url}
    found = asked(**there)
    assert (found.verdict, found.what) == (Verdict.OK, "answers; 1 queue(s) to serve now")
    named = asked(**there, queues=("rmq_mine",))
    assert (named.verdict, named.what) == (Verdict.OK, "answers, and has the queues rmq_mine")
    assert asked(**there, queues=("rmq_other",)).verdict is Verdict.FAULT
    source = lab.source()
    assert len(source.take(5)) == 1  # it is still there
    stranger = asked(amqp_url=lab.url_of("nobody", "hunter2"), amqp_mgt_url=lab.management_url)
    assert stranger.verdict is Verdict.FAULT and "hunter2" not in stranger.line()
    away = asked(amqp_url=lab.url, amqp_mgt_url="http://127.0.0.1:1")
    assert away.verdict is Verdict.FAULT and "no management API" in away.line()


def test_sqs_is_asked_for_its_queues(sqs_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("AWS_ENDPOINT_URL_SQS", sqs_url),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
    ):
        monkeypatch.setenv(name, value)
    client = boto3.client("sqs", region_name="eu-north-1", endpoint_url=sqs_url)
    url = client.create_queue(QueueName="sqs_doctor")["QueueUrl"]
    try:
        found = asked(aws_region="eu-north-1", queue_match="^sqs_doctor$")
        assert (found.verdict, found.what) == (Verdict.OK, "answers; 1 queue(s) to serve now")
    finally:
        client.delete_queue(QueueUrl=url)
