"""Google Pub/Sub: against Google's emulator where this machine has it, else against a stand-in.

The stand-in (tests/fakes/pubsub_stand_in.py) speaks the same protocol and is no proof of Google's
own behaviour. Refusals and outages are its part in either case.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pubsub_stand_in
import pytest
from google.cloud import pubsub_v1
from hypothesis import given
from hypothesis import strategies as st

from dev import queue_servers
from hpcrunner.queues.contract import Answer, Delivery, QueueUnavailable
from hpcrunner.queues.errors import OptionInvalid
from hpcrunner.queues.google import EMULATOR, GoogleAccess, access_of_file
from hpcrunner.queues.listening import ListeningSource, LoginRefused, QueueGone, QueueRefused
from hpcrunner.queues.matching import DEFAULT_MATCH, QueueFilter
from hpcrunner.queues.pubsub import PubSubServer, pubsub_source, queue_of
from hpcrunner.queues.pubsub_respond import PubSubResponder
from hpcrunner.queues.responders import responders_from
from hpcrunner.queues.sources import QueueOptions, sources_from

# To look without waiting is deprecated, and has no successor.
pytestmark = pytest.mark.filterwarnings("ignore:The return_immediately flag:DeprecationWarning")

Coming = Callable[[ListeningSource, int], list[Delivery]]
Eventually = Callable[..., None]


def bodies(deliveries: Sequence[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


class Lab:
    """A project of one's own."""

    def __init__(self) -> None:
        self.project = f"p{secrets.token_hex(6)}"
        self.access = GoogleAccess(self.project)
        self.publisher: Any = pubsub_v1.PublisherClient()
        self.subscriber: Any = pubsub_v1.SubscriberClient()
        self.sources: list[ListeningSource] = []

    def subscription(self, queue: str) -> str:
        return f"projects/{self.project}/subscriptions/{queue}_sub"

    def create(self, queue: str, **more: Any) -> None:
        """As StudioML's client does: a topic, a subscription with its suffix, 20 seconds."""
        topic = f"projects/{self.project}/topics/{queue}"
        self.publisher.create_topic(name=topic)
        request = {
            "name": self.subscription(queue),
            "topic": topic,
            "ack_deadline_seconds": 20,
            **more,
        }
        self.subscriber.create_subscription(request=request)

    def send(self, queue: str, *texts: bytes) -> None:
        topic = f"projects/{self.project}/topics/{queue}"
        for future in [self.publisher.publish(topic, text) for text in texts]:
            future.result(60)

    def source(self, match: str = DEFAULT_MATCH, mismatch: str = "") -> ListeningSource:
        made = pubsub_source(self.access, QueueFilter(match, mismatch), timeout=30)
        self.sources.append(made)
        return made

    def close(self) -> None:
        for source in self.sources:
            source.close()
        self.publisher.stop()
        self.subscriber.close()


@pytest.fixture(scope="module")
def pubsub_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    try:
        with queue_servers.pubsub(tmp_path_factory.mktemp("pubsub") / "log") as host:
            yield host
    except queue_servers.NotHere:
        with pubsub_stand_in.serving(pubsub_stand_in.StandIn()) as host:
            yield host


@pytest.fixture
def lab(pubsub_host: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setenv(EMULATOR, pubsub_host)
    lab = Lab()
    yield lab
    lab.close()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[pubsub_stand_in.StandIn]:
    made = pubsub_stand_in.StandIn()
    with pubsub_stand_in.serving(made) as host:
        monkeypatch.setenv(EMULATOR, host)
        yield made


def test_each_message_of_several_queues_arrives_once_by_the_clients_names(
    lab: Lab, coming: Coming
) -> None:
    sent = Counter()
    for queue in ("pubsub_a", "pubsub_b", "pubsub_c"):
        lab.create(queue)
        texts = [f"{queue} {number}".encode() for number in range(12)]
        lab.send(queue, *texts)
        sent.update((queue, text) for text in texts)
    source = lab.source()
    taken = coming(source, 36)
    source.accept(taken)
    assert Counter((d.queue, d.body) for d in taken) == sent
    source.close()
    assert lab.source().take(9) == []


def test_any_bytes_arrive_as_they_are(lab: Lab, coming: Coming) -> None:
    lab.create("pubsub_a")
    body = bytes(range(256)) * 4000
    lab.send("pubsub_a", body)
    assert bodies(coming(lab.source(), 1)) == [body]


def test_what_is_given_back_or_left_at_closing_others_have_at_once(
    lab: Lab, coming: Coming
) -> None:
    lab.create("pubsub_a")
    lab.send("pubsub_a", b"0", b"1", b"2")
    source = lab.source()
    taken = coming(source, 3)
    source.give_back(taken[:1])
    source.accept(taken[1:2])
    source.close()
    again = coming(lab.source(), 2)
    assert sorted(bodies(again)) == sorted(bodies([taken[0], taken[2]]))


def test_report_queues_unmatched_ones_and_pushed_ones_are_never_touched(
    lab: Lab, coming: Coming
) -> None:
    for queue in ("pubsub_work", "pubsub_work_response", "other"):
        lab.create(queue)
        lab.send(queue, queue.encode())
    lab.create("pubsub_pushed", push_config={"push_endpoint": "http://127.0.0.1:9/"})
    source = lab.source()
    assert bodies(coming(source, 1)) == [b"pubsub_work"]
    assert source.served().queues == ("pubsub_work",)


def test_a_queue_is_found_by_its_own_name_or_its_subscriptions(lab: Lab, coming: Coming) -> None:
    for queue in ("one", "two", "three"):
        lab.create(queue)
        lab.send(queue, queue.encode())
    assert bodies(coming(lab.source("^one$"), 1)) == [b"one"]
    assert bodies(coming(lab.source("^two_sub$"), 1)) == [b"two"]
    # The mismatch wins, whichever name it finds.
    assert PubSubServer(lab.access, QueueFilter("", "^three$|one_sub")).queues() == {
        lab.subscription("two"): "two"
    }


def test_a_queue_deleted_by_its_client_harms_nothing(
    lab: Lab, coming: Coming, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    lab.create("pubsub_gone")
    lab.send("pubsub_gone", b"journalled meanwhile")
    source = lab.source()
    taken = coming(source, 1)
    lab.subscriber.delete_subscription(subscription=lab.subscription("pubsub_gone"))
    source.accept(taken)
    eventually(lambda: not (source.take(5) or source.served().queues))
    lines = [(r.levelname, r.getMessage()) for r in caplog.records]
    assert [text for level, text in lines if level != "INFO"] == []
    assert any("pubsub_gone is gone" in text for _, text in lines)


def test_a_listing_of_many_pages_is_read_to_its_end(stand_in: Any) -> None:
    lab = Lab()
    for number in range(7):
        lab.create(f"pubsub_{number}")
    assert len(PubSubServer(lab.access, QueueFilter()).queues()) == 7
    assert stand_in.calls.count("ListSubscriptions") == 4
    lab.close()


@pytest.mark.parametrize(
    ("code", "listing", "receiving"),
    [
        (grpc.StatusCode.NOT_FOUND, QueueGone, QueueGone),
        (grpc.StatusCode.PERMISSION_DENIED, LoginRefused, QueueRefused),
        (grpc.StatusCode.UNAUTHENTICATED, LoginRefused, LoginRefused),
        (grpc.StatusCode.FAILED_PRECONDITION, LoginRefused, QueueRefused),
        (grpc.StatusCode.UNAVAILABLE, QueueUnavailable, QueueUnavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, QueueUnavailable, QueueUnavailable),
        (grpc.StatusCode.INTERNAL, QueueUnavailable, QueueUnavailable),
    ],
)
def test_what_pubsub_answers_is_a_fault_of_the_queue_the_login_or_the_moment(
    stand_in: Any, code: grpc.StatusCode, listing: type[Exception], receiving: type[Exception]
) -> None:
    stand_in.refusals = {"ListSubscriptions": code, "Pull": code}
    server = PubSubServer(GoogleAccess("p"), QueueFilter())
    with pytest.raises(QueueUnavailable) as told:
        server.queues()
    assert type(told.value) is listing
    with pytest.raises(QueueUnavailable) as told:
        server.receive("projects/p/subscriptions/pubsub_a_sub", 10, 1.0)
    assert type(told.value) is receiving
    assert "queue pubsub_a" in told.value.line()
    server.close()


def test_a_refused_acknowledgement_is_said_and_the_message_comes_again(
    stand_in: Any, coming: Coming, caplog: pytest.LogCaptureFixture
) -> None:
    lab = Lab()
    lab.create("pubsub_a")
    lab.send("pubsub_a", b"x")
    source = lab.source()
    taken = coming(source, 1)
    stand_in.refusals = {"Acknowledge": grpc.StatusCode.UNAVAILABLE}
    source.accept(taken)
    assert "comes again" in caplog.text
    (message,) = stand_in.waiting[lab.subscription("pubsub_a")]
    message.visible_at = 0.0  # the minute is over
    stand_in.refusals = {}
    again = coming(source, 1)
    assert bodies(again) == [b"x"]
    source.accept(again)
    assert stand_in.waiting[lab.subscription("pubsub_a")] == []
    lab.close()


def test_a_message_is_kept_for_a_minute_whatever_the_subscriptions_deadline(
    stand_in: Any, coming: Coming
) -> None:
    lab = Lab()
    lab.create("pubsub_a")
    lab.send("pubsub_a", b"x")
    coming(lab.source(), 1)
    assert "ModifyAckDeadline" in stand_in.calls
    lab.close()


def service_account(path: Path, **changes: object) -> Path:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    document = {
        "type": "service_account",
        "project_id": "my-project",
        "private_key_id": "1",
        "private_key": pem,
        "client_email": "runner@my-project.example",
        "token_uri": "https://127.0.0.1:1/token",
        **changes,
    }
    path.write_text(json.dumps(document))
    path.chmod(0o600)
    return path


def test_a_service_accounts_file_names_its_project_and_never_shows_its_key(
    tmp_path: Path,
) -> None:
    access = access_of_file(service_account(tmp_path / "a.json"), {})
    assert access.project == "my-project"
    assert "PRIVATE" not in repr(access)
    assert pubsub_source(access, QueueFilter()).name == "pubsub my-project"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"project_id": None}, "project_id"),
        ({"project_id": "a/b"}, "project_id"),
        ({"type": "authorized_user"}, "service account"),
        ({"private_key": "-----BEGIN hush-----"}, "no usable key"),
        ({"private_key": None}, "no usable key"),
    ],
)
def test_a_file_that_is_none_is_one_line_without_its_key(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    path = service_account(tmp_path / "a.json", **changes)
    with pytest.raises(OptionInvalid) as refused:
        pubsub_source(access_of_file(path, {}), QueueFilter())
    assert said in refused.value.line()
    assert "hush" not in refused.value.line()
    assert "\n" not in refused.value.line()


@given(st.text())
def test_any_subscription_has_a_name(text: str) -> None:
    name = queue_of(f"projects/p/subscriptions/{text}_sub")
    assert name == (text.rpartition("/")[2] or "_sub")
    QueueFilter("").admits(text, name)


# -- the way back ----------------------------------------------------------------------------------


def heard(lab: Lab, queue: str, most: int) -> list[bytes]:
    """What a client's own subscription has got."""
    found: list[bytes] = []
    while len(found) < most:
        request = {"subscription": lab.subscription(queue), "max_messages": most}
        for received in lab.subscriber.pull(request=request, timeout=60).received_messages:
            found.append(received.message.data)
            ids = [received.ack_id]
            lab.subscriber.acknowledge(
                request={"subscription": lab.subscription(queue), "ack_ids": ids}
            )
    return found


def test_reports_reach_a_client_by_the_name_that_its_request_came_under(
    lab: Lab, tmp_path: Path, coming: Coming
) -> None:
    """And no topic is made for a client that does not listen."""
    key = tmp_path / "key.json"
    key.write_text(json.dumps({"project_id": lab.project}))
    key.chmod(0o600)
    options = QueueOptions(gateway_id="g", google_certs=str(tmp_path), pubsub_timeout=30)
    (source,) = sources_from(options)
    responders = responders_from(options)
    lab.create("pubsub_mine_response")
    lab.create("pubsub_mine")
    lab.create("pubsub_other")
    lab.send("pubsub_mine", b"request")
    try:
        (delivery,) = coming(source, 1)
        assert delivery.queue == "pubsub_mine"  # and nothing of the response queue
        responder = responders.find(delivery.server)
        assert responder is not None
        texts = [f"report {number} \u00fc" for number in range(3)]
        answers = [responder.publish("pubsub_mine_response", text) for text in texts]
        assert answers == [Answer.PUBLISHED] * 3
        came = heard(lab, "pubsub_mine_response", 3)
        assert sorted(came) == [text.encode() for text in texts]
        assert responder.publish("pubsub_other_response", "x") is Answer.NO_QUEUE
        responder.close()
        assert responder.publish("pubsub_mine_response", "again") is Answer.PUBLISHED
        source.accept([delivery])
    finally:
        source.close()
        responders.close()


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, Answer.QUEUE_REFUSES),
        (grpc.StatusCode.UNAUTHENTICATED, Answer.SERVER_AWAY),
        (grpc.StatusCode.UNAVAILABLE, Answer.SERVER_AWAY),
        (grpc.StatusCode.NOT_FOUND, Answer.NO_QUEUE),
    ],
)
def test_reports_that_are_refused_are_said_once(
    stand_in: pubsub_stand_in.StandIn,
    caplog: pytest.LogCaptureFixture,
    code: grpc.StatusCode,
    answer: Answer,
) -> None:
    responder = PubSubResponder(GoogleAccess("p1"), timeout=30)
    stand_in.refusals["Publish"] = code
    with caplog.at_level(logging.INFO):
        assert [responder.publish("a_response", "x") for _ in range(2)] == [answer] * 2
        assert caplog.text.count("reports: ") == (answer is not Answer.NO_QUEUE)
    assert stand_in.calls.count("Publish") == 2
    responder.close()


def test_what_no_topic_can_take_is_not_sent(stand_in: pubsub_stand_in.StandIn) -> None:
    responder = PubSubResponder(GoogleAccess("p1"))
    for name in ("", "x", "1abc_response", "a b_response", "x" * 256):
        assert responder.publish(name, "x") is Answer.NO_QUEUE
    assert responder.publish("a_response", "x" * 10_000_000) is Answer.TOO_LARGE
    assert stand_in.calls == []
    responder.close()
