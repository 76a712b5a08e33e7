"""The same experiment by every kind of queue, through one gateway and the real Slurm.

RabbitMQ is the development cluster's, SQS is moto's server, Pub/Sub Google's emulator; none of
them is left out silently. The clients delete their queues while the experiments run.
"""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dev import queue_servers
from hpcrunner.client.build import Work
from hpcrunner.client.publish import publish, store_work
from hpcrunner.client.results import fetch_artifact, request_in
from hpcrunner.queues.rabbitmq_publish import RabbitPublisher

pytestmark = [pytest.mark.slurm, pytest.mark.rabbitmq]

SCRIPT = """
import os, sys, time
print("computed by", os.environ["STUDIOML_EXPERIMENT"], "for", sys.argv[1], flush=True)
fd = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
os.write(fd, (sys.argv[1] + "\\n").encode())
time.sleep(4)
"""

Way = tuple[Callable[[bytes], None], Callable[[], None]]  # send a message; delete the queue


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Where SQS and Pub/Sub answer."""
    with ExitStack() as stack:
        try:
            sqs = stack.enter_context(queue_servers.sqs(tmp_path / "sqs.log"))
            pubsub = stack.enter_context(queue_servers.pubsub(tmp_path / "pubsub.log"))
        except queue_servers.NotHere as error:
            pytest.skip(str(error))
        yield sqs, pubsub


def by_rabbitmq(url: str, queue: str) -> Way:
    def send(body: bytes) -> None:
        with RabbitPublisher(url) as publisher:
            publisher.publish(queue, body)

    def delete() -> None:
        with RabbitPublisher(url) as publisher:
            publisher.delete(queue)

    return send, delete


def by_sqs(url: str, queue: str) -> Way:
    import boto3

    client = boto3.client(
        "sqs",
        endpoint_url=url,
        region_name="us-west-2",
        aws_access_key_id="client",
        aws_secret_access_key="client",
    )
    address = client.create_queue(QueueName=queue)["QueueUrl"]
    return (
        lambda body: client.send_message(QueueUrl=address, MessageBody=body.decode()),
        lambda: client.delete_queue(QueueUrl=address),
    )


def by_pubsub(project: str, queue: str) -> Way:
    from google.cloud import pubsub_v1

    publisher: Any = pubsub_v1.PublisherClient()
    subscriber: Any = pubsub_v1.SubscriberClient()
    topic = f"projects/{project}/topics/{queue}"
    subscription = f"projects/{project}/subscriptions/{queue}_sub"
    publisher.create_topic(name=topic)
    subscriber.create_subscription(
        request={"name": subscription, "topic": topic, "ack_deadline_seconds": 20}
    )
    return (
        lambda body: publisher.publish(topic, body).result(60),
        lambda: subscriber.delete_subscription(subscription=subscription),
    )


def by_directory(folder: Path, user: str) -> Way:
    def send(body: bytes) -> None:
        publish(folder, body)
        subprocess.run(["chown", "-R", user, folder.parent], check=True)

    return send, lambda: shutil.rmtree(folder)


def credentials(flow: Any, project: str) -> list[str]:
    """Both folders of credentials, the user's alone; returns the options that name them."""
    team = flow.folder / "sqs-certs" / "team"
    team.mkdir(parents=True)
    (team / "config").write_text("[default]\nregion = us-west-2\n")
    (team / "credentials").write_text(
        "[default]\naws_access_key_id = runner\naws_secret_access_key = hush-sqs\n"
    )
    google = flow.folder / "google-certs"
    google.mkdir()
    (google / "account.json").write_text(json.dumps({"project_id": project, "key": "hush-google"}))
    owner = pwd.getpwnam(flow.cluster.user)
    for path in (*team.iterdir(), *google.iterdir()):
        path.chmod(0o600)
        os.chown(path, owner.pw_uid, owner.pw_gid)
    return ["--sqs-certs", str(team.parent), "--google-certs", str(google)]


def test_every_kind_of_queue_carries_an_experiment_through_one_gateway(
    cluster: Any,
    workdir: Path,
    flow_type: Any,
    servers: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flow = flow_type(cluster, workdir, "auto")
    flow.write_site()
    sqs, pubsub = servers
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub)
    mark = secrets.token_hex(4)
    broker = cluster.facts["rabbitmq"]
    ways = {
        f"rmq_{mark}": by_rabbitmq(broker["url"], f"rmq_{mark}"),
        f"sqs_{mark}": by_sqs(sqs, f"sqs_{mark}"),
        f"pubsub_{mark}": by_pubsub(f"project-{mark}", f"pubsub_{mark}"),
        f"local_{mark}": by_directory(flow.folder / "queue" / f"local_{mark}", cluster.user),
    }
    options = credentials(flow, f"project-{mark}")
    (flow.folder / "workspace").mkdir()
    (flow.folder / "workspace" / "run.py").write_text(SCRIPT)
    sent = {}
    for queue in ways:
        work = Work("run.py", args=(queue, str(flow.folder / "ledger")), ram="64m")
        sent[queue] = store_work(work, flow.folder / "workspace", flow.folder / "store")
    subprocess.run(["chown", "-R", cluster.user, flow.folder], check=True)
    for queue, (send, _) in ways.items():
        send(sent[queue][1])

    process = flow.gateway(
        f"--queue-match=_{mark}",
        "--limit-tasks",
        str(len(ways)),
        *options,
        env={
            "AMQP_URL": broker["url"],
            "AMQP_MGT_URL": broker["management_url"],
            "AWS_ENDPOINT_URL_SQS": sqs,
            "PUBSUB_EMULATOR_HOST": pubsub,
        },
    )
    try:
        until(lambda: len(flow.status()) == len(ways), flow)
        for _, delete in ways.values():
            delete()
        assert process.wait(180) == 0, flow.log()
    finally:
        process.kill()

    told = {e["queue"]: (e["key"], e["state"]) for e in flow.status()}
    assert told == {queue: (key, "SUCCEEDED") for queue, (key, _) in sent.items()}
    assert sorted((flow.folder / "ledger").read_text().split()) == sorted(ways)
    for queue, (key, body) in sent.items():
        fetch_artifact(request_in(body, key), "output", workdir / f"results-{queue}")
        text = (workdir / f"results-{queue}" / "output").read_text()
        assert f"computed by {key} for {queue}" in text
    assert "Traceback" not in flow.log()
    warnings = [line for line in flow.log().splitlines() if " WARNING " in line]
    assert not any(mark in line for line in warnings), "a queue that is gone is no trouble"
    assert "hush" not in flow.log()


def until(holds: Callable[[], Any], flow: Any, seconds: float = 150) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, flow.log()
        time.sleep(0.3)
