"""SQS against moto's server: nothing lost, nothing doubled, nobody disturbed."""

from __future__ import annotations

import itertools
import json
import logging
import os
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.stub import Stubber
from hypothesis import given
from hypothesis import strategies as st

from dev import queue_servers
from hpcrunner.gateway.intake import Intake
from hpcrunner.gateway.journal import Journal
from hpcrunner.queues import sqs
from hpcrunner.queues.aws import AwsAccess, AwsKeys, queue_url, send_message, sqs_client
from hpcrunner.queues.contract import Delivery, QueueUnavailable
from hpcrunner.queues.listening import ListeningSource, LoginRefused, QueueGone, QueueRefused
from hpcrunner.queues.matching import QueueFilter
from hpcrunner.queues.sqs import SqsServer, _delivery, name_of, sqs_source
from hpcrunner.sites.load import load_site

if TYPE_CHECKING:
    from conftest import Clock

Coming = Callable[[ListeningSource, int], list[Delivery]]
Eventually = Callable[..., None]

REGION = "eu-central-1"
SECRET = "s3cr3t/of+sqs"
ACCESS = AwsAccess("aws_test", REGION, AwsKeys("AKIDTEST", SECRET))


def bodies(deliveries: Sequence[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


class Lab:
    """An SQS of one's own: moto, emptied."""

    def __init__(self, url: str) -> None:
        reset = urllib.request.Request(f"{url}/moto-api/reset", method="POST")
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(reset).close()
        self.client: Any = boto3.client(
            "sqs",
            endpoint_url=url,
            region_name=REGION,
            aws_access_key_id="client",
            aws_secret_access_key="client",
        )
        self.sources: list[ListeningSource] = []

    def create(self, queue: str, **attributes: str) -> str:
        return str(self.client.create_queue(QueueName=queue, Attributes=attributes)["QueueUrl"])

    def send(self, queue: str, *texts: str) -> None:
        """As StudioML's client does: the queue is made, the message has no attributes."""
        url = self.create(queue)
        for text in texts:
            self.client.send_message(QueueUrl=url, MessageBody=text)

    def count(self, queue: str, *, hidden: bool = False) -> int:
        url = self.client.get_queue_url(QueueName=queue)["QueueUrl"]
        what = "ApproximateNumberOfMessages" + ("NotVisible" if hidden else "")
        found = self.client.get_queue_attributes(QueueUrl=url, AttributeNames=[what])
        return int(found["Attributes"][what])

    def pass_a_minute(self, deliveries: Sequence[Delivery]) -> None:
        """The time for which these are hidden is over."""
        for delivery in deliveries:
            handle: Any = delivery.handle
            self.client.change_message_visibility(
                QueueUrl=handle.url, ReceiptHandle=handle.receipt, VisibilityTimeout=0
            )

    def source(self, match: str = "^sqs_", **options: Any) -> ListeningSource:
        queue_filter = options.pop("queue_filter", None) or QueueFilter(match)
        made = sqs_source(ACCESS, queue_filter, **options)
        self.sources.append(made)
        return made


@pytest.fixture
def lab(sqs_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", sqs_url)
    lab = Lab(sqs_url)
    yield lab
    for source in lab.sources:
        source.close()


def test_each_message_of_several_queues_arrives_once(lab: Lab, coming: Coming) -> None:
    sent = Counter()
    for queue in ("sqs_a", "sqs_b", "sqs_c"):
        for number in range(12):
            lab.send(queue, f"{queue} {number}")
            sent[(queue, f"{queue} {number}".encode())] += 1
    source = lab.source()
    taken = coming(source, 36)
    source.accept(taken)
    assert Counter((d.queue, d.body) for d in taken) == sent
    assert not any(d.redelivered for d in taken)
    assert all(lab.count(q) + lab.count(q, hidden=True) == 0 for q in ("sqs_a", "sqs_b", "sqs_c"))


def test_no_more_is_hidden_from_others_than_there_was_room_for(lab: Lab, coming: Coming) -> None:
    lab.send("sqs_a", *(str(number) for number in range(25)))
    source = lab.source()
    assert len(coming(source, 7)) == 7
    source.take(0)
    assert (lab.count("sqs_a"), lab.count("sqs_a", hidden=True)) == (18, 7)
    assert len(coming(lab.source(), 18)) == 18


def test_a_message_whose_gateway_died_comes_again_and_says_so(lab: Lab, coming: Coming) -> None:
    lab.send("sqs_a", "x")
    taken = coming(lab.source(), 1)
    lab.pass_a_minute(taken)
    (again,) = coming(lab.source(), 1)
    assert (again.body, again.redelivered) == (b"x", True)


def test_a_message_journalled_and_not_deleted_is_known_as_a_copy_and_run_once(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    workspace = {"qualified": "file:///somewhere/workspace.tar", "mutable": False}
    experiment = {"key": "k", "filename": "run.py", "artifacts": {"workspace": workspace}}
    message = {"experiment": experiment, "config": {}}
    lab.send("sqs_a", json.dumps(message))
    ids = itertools.count()

    def intake(source: ListeningSource, journal: Journal) -> Intake:
        return Intake(
            [source],
            journal,
            load_site("local"),
            clock=time.time,
            new_id=lambda: f"{next(ids):012x}",
        )

    journal = Journal(tmp_path / "journal.db", time.time)
    journal.take_over("here", os.getpid())
    first = lab.source()
    lost: list[Delivery] = []
    monkeypatch.setattr(first, "accept", lost.extend)  # it died here
    # For one only: its thread listens on in this process, and would take the message again.
    eventually(lambda: intake(first, journal).drain(1))
    assert journal.count_live() == 1
    lab.pass_a_minute(lost)
    second = lab.source()
    eventually(lambda: intake(second, journal).drain(10))
    assert journal.count_live() == 1, "a copy is no second experiment"
    eventually(lambda: lab.count("sqs_a") + lab.count("sqs_a", hidden=True) == 0)
    journal.close()


def test_what_is_given_back_or_left_at_closing_others_have_at_once(
    lab: Lab, coming: Coming
) -> None:
    lab.send("sqs_a", "0", "1", "2")
    source = lab.source()
    taken = coming(source, 3)
    source.give_back(taken[:1])
    source.accept(taken[1:2])
    source.close()
    assert lab.count("sqs_a", hidden=True) == 0
    again = coming(lab.source(), 2)
    assert sorted(bodies(again)) == sorted(bodies([taken[0], taken[2]]))


def test_queues_of_others_and_report_queues_are_never_touched(lab: Lab, coming: Coming) -> None:
    lab.send("sqs_work", "mine")
    lab.send("sqs_work_response", "a report")
    lab.send("other", "not matched")
    url = lab.create("sqs_x_response.fifo", FifoQueue="true", ContentBasedDeduplication="true")
    lab.client.send_message(QueueUrl=url, MessageBody="a report", MessageGroupId="g")
    source = lab.source()
    assert bodies(coming(source, 1)) == [b"mine"]
    assert source.served().queues == ("sqs_work",)
    for queue in ("sqs_work_response", "other", "sqs_x_response.fifo"):
        assert lab.count(queue) == 1


def test_a_listing_of_many_pages_is_read_to_its_end(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, coming: Coming
) -> None:
    monkeypatch.setattr(sqs, "_PAGE", 2)
    queues = [f"sqs_{number:02}" for number in range(7)]
    for queue in queues:
        lab.create(queue)
    lab.send("sqs_06", "on the last page")
    source = lab.source()
    assert bodies(coming(source, 1)) == [b"on the last page"]
    assert list(source.served().queues) == queues


def test_a_queue_deleted_by_its_client_harms_nothing(
    lab: Lab, coming: Coming, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    lab.send("sqs_gone", "journalled meanwhile")
    source = lab.source()
    taken = coming(source, 1)
    lab.client.delete_queue(QueueUrl=lab.create("sqs_gone"))
    source.accept(taken)
    eventually(lambda: not (source.take(5) or source.served().queues))
    lines = [(r.levelname, r.getMessage()) for r in caplog.records]
    assert [text for level, text in lines if level != "INFO"] == []
    assert any("sqs_gone is gone" in text for _, text in lines)


def test_a_fifo_queue_is_served_in_its_order(lab: Lab, coming: Coming) -> None:
    url = lab.create("sqs_a.fifo", FifoQueue="true", ContentBasedDeduplication="true")
    for number in range(12):
        lab.client.send_message(QueueUrl=url, MessageBody=str(number), MessageGroupId="g")
    source = lab.source()
    got: list[bytes] = []
    while len(got) < 12:
        taken = coming(source, 1)
        got += bodies(taken)
        source.accept(taken)
    assert got == [b"%d" % number for number in range(12)]


def test_named_queues_are_found_without_a_listing_and_may_come_later(
    lab: Lab, coming: Coming, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("sqs_a", "mine", "no/name of sqs")
    monkeypatch.setattr(SqsServer, "_listed", lambda _: pytest.fail("no right to list"))
    lab.send("mine", "0")
    lab.send("sqs_b", "not named")
    source = lab.source(queues=names, queue_filter=QueueFilter.only(names))
    source._clock = clock
    assert bodies(coming(source, 1)) == [b"0"]
    lab.send("sqs_a", "1")
    clock.forward(sqs._REFRESH)
    assert bodies(coming(source, 1)) == [b"1"]
    assert lab.count("sqs_b") == 1


def test_a_text_arrives_as_its_bytes(lab: Lab, coming: Coming) -> None:
    text = '{"ü": "\U0001f40b",\r\n\t"x": "' + "y" * 200_000 + '"}'
    lab.send("sqs_a", text)
    assert bodies(coming(lab.source(), 1)) == [text.encode()]


def test_a_server_that_is_away_is_one_line_without_a_secret(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, eventually: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", f"http://127.0.0.1:{queue_servers.free_port()}")
    source = lab.source()
    assert source.take(5) == []
    eventually(lambda: "Could not connect" in caplog.text)
    lines = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert lines[0].getMessage().startswith(f"sqs {REGION} (aws_test): ")
    assert SECRET not in caplog.text
    assert source.served().unlisted >= 1


def test_no_credential_shows_in_what_people_print() -> None:
    shown = f"{ACCESS!r} {ACCESS.server} {sqs_source(ACCESS, QueueFilter()).name}"
    assert SECRET not in shown
    assert "AKIDTEST" not in shown


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("AWS.SimpleQueueService.NonExistentQueue", 400, QueueGone),
        ("QueueDoesNotExist", 400, QueueGone),
        ("AccessDenied", 403, QueueRefused),
        ("KMS.DisabledException", 400, QueueRefused),
        ("InvalidClientTokenId", 403, LoginRefused),
        ("ExpiredToken", 403, LoginRefused),
        ("ThrottlingException", 400, QueueUnavailable),
        ("InternalError", 500, QueueUnavailable),
        ("ServiceUnavailable", 503, QueueUnavailable),
    ],
)
def test_what_sqs_answers_is_a_fault_of_the_queue_the_login_or_the_moment(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, code: str, status: int, kind: type[Exception]
) -> None:
    server = SqsServer(ACCESS, QueueFilter())
    server.queues()
    with Stubber(server._waiting_client) as stub:
        stub.add_client_error("receive_message", code, http_status_code=status)
        with pytest.raises(QueueUnavailable) as told:
            server.receive("https://sqs/1/sqs_a", 10, 0)
    assert type(told.value) is kind
    assert "sqs_a" in told.value.line()


def test_a_deletion_that_fails_for_some_is_counted_and_the_others_are_gone(lab: Lab) -> None:
    lab.send("sqs_a", "0", "1")
    server = SqsServer(ACCESS, QueueFilter())
    (url,) = server.queues()
    taken = [*server.receive(url, 1, 0), *server.receive(url, 1, 0)]
    stale = Delivery("sqs_a", b"", handle=sqs._Handle(url, "no receipt"))
    assert server.settle([taken[0], stale, taken[1]]) == 1
    assert lab.count("sqs_a") + lab.count("sqs_a", hidden=True) == 0


def test_many_are_deleted_in_few_requests(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []

    class Counting:
        def delete_message_batch(self, **words: Any) -> dict[str, Any]:
            sent.append(len(words["Entries"]))
            return {}

    server = SqsServer(ACCESS, QueueFilter())
    server._client = Counting()
    server.settle([Delivery("sqs_a", b"", handle=sqs._Handle("u", str(n))) for n in range(45)])
    assert sent == [10, 10, 10, 10, 5]


def test_a_message_can_be_sent_to_a_queue_that_is_there(lab: Lab) -> None:
    lab.create("sqs_a_response")
    client = sqs_client(ACCESS)
    assert queue_url(client, "sqs_b_response") is None
    url = queue_url(client, "sqs_a_response")
    assert url is not None
    send_message(client, url, "a report")
    assert lab.count("sqs_a_response") == 1
    lab.client.delete_queue(QueueUrl=url)
    with pytest.raises(QueueUnavailable):
        send_message(client, url, "a report")


@given(st.text(), st.text(), st.text())
def test_any_message_becomes_bytes_and_any_url_a_name(body: str, url: str, count: str) -> None:
    received = {
        "Body": body,
        "ReceiptHandle": "r",
        "Attributes": {"ApproximateReceiveCount": count},
    }
    delivery = _delivery(url, received)
    assert delivery.body.decode("utf-8", "surrogatepass") == body
    assert "/" not in name_of(url)
    assert delivery.redelivered is (count != "1")
