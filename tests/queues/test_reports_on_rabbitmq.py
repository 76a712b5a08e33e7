"""An experiment's reports, from journal and files to a listener, over a real RabbitMQ."""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from hpcrunner.gateway.experiment import Experiment, Outcome, Reports, State
from hpcrunner.gateway.journal import Journal, NewExperiment, NextAttempt
from hpcrunner.gateway.reader import Reader
from hpcrunner.gateway.reports.open import open_teller
from hpcrunner.gateway.reports.positions import Positions
from hpcrunner.gateway.reports.reporter import Reporter
from hpcrunner.gateway.reports.teller import Teller
from hpcrunner.gateway.retention import TOLD_FOR
from hpcrunner.gateway.spool import Spool
from hpcrunner.keys.folder import KeyFolder
from hpcrunner.queues.rabbitmq_respond import RabbitResponder
from hpcrunner.queues.responders import ServerResponders
from hpcrunner.queues.sources import QueueOptions
from hpcrunner.request.reasons import Reason
from hpcrunner.request.rsakey import load_public_rsa
from hpcrunner.request.seal import unseal
from hpcrunner.sites.spec import JobSpec

pytestmark = pytest.mark.rabbitmq

SPEC = JobSpec(partition="cpu", cpus=1)
QUEUE = "rmq_mine_response"
WON = Outcome(State.SUCCEEDED, Reason.COMPLETED, "ended well", exit_code=0, node="n1")
FAILED = Outcome(State.FAILED, Reason.PAYLOAD_EXIT, "ended with 3", exit_code=3, node="n1")
DOCS = Path(__file__).parents[2] / "docs" / "reports.md"


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def public_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.PKCS1
    )


@dataclass
class Desk:
    """A spool with a journal, experiments that live as told, and tellers over a real broker."""

    lab: Any
    clock: Any
    folder: Path
    key: rsa.RSAPrivateKey
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    tellers: list[Teller] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.spool = Spool(self.folder / "spool")
        self.spool.prepare()
        self.journal = Journal(self.spool.journal, self.clock)
        self.url = self.lab.url
        self.server = RabbitResponder(self.url).name
        self.keys = self.folder / "keys"
        self.keys.mkdir()
        (self.keys / QUEUE).write_bytes(public_pem(self.key))
        self.lab.publisher.declare(QUEUE)

    def experiment(self, queue: str = "rmq_mine", **changes: Any) -> str:
        name = f"{next(self.numbers):012x}"
        given = {"state": State.ACCEPTED, "received_at": self.clock(), "spec": SPEC, **changes}
        row = Experiment(
            name, f"key-{name}", queue, server=self.server, reports=Reports.DUE, **given
        )
        self.journal.add([NewExperiment(row, b"{}", name)])
        return name

    def start(self, experiment: str, batch: str) -> None:
        """Submitted in a batch of its own, and claimed by a job."""
        self.journal.begin_batch(batch, SPEC, {1: experiment}, size=1)
        self.journal.batch_submitted(batch, [f"{batch}_1"])
        self.journal.running([(experiment, "n1", self.clock())])
        for path in (self.spool.log(batch, 1), self.spool.events(batch, 1)):
            path.parent.mkdir(parents=True)
            path.touch()
        self.note(batch, "claimed", host="n1")
        self.note(batch, "accession", accession=f"n1-{batch}")

    def note(self, batch: str, event: str, **more: object) -> None:
        with self.spool.events(batch, 1).open("a") as file:
            file.write(json.dumps({"time": self.clock(), "event": event, **more}) + "\n")

    def prints(self, batch: str, text: str) -> None:
        with self.spool.log(batch, 1).open("a") as file:
            file.write(text)

    def end(self, experiment: str, outcome: Outcome = WON) -> None:
        self.journal.end([(experiment, outcome)])

    def again(self, experiment: str) -> None:
        (e,) = self.journal.find(experiment)
        self.journal.retry([NextAttempt(e, FAILED, SPEC, 0.0, 0, 1, "attempt 2")])

    def teller(self) -> Teller:
        """What a new gateway has: it remembers only what was written down."""
        teller = Teller(
            Reader(self.spool.journal),
            self.spool,
            Positions(self.spool.positions),
            ServerResponders([RabbitResponder(self.url)]),
            KeyFolder(self.keys, load_public_rsa, "--response-signatures-dir"),
            host="login",
            clock=self.clock,
            steady=self.clock,
        )
        self.tellers.append(teller)
        return teller

    def tell(self, teller: Teller) -> list[str]:
        """Rounds until all is told that can be; those over are written down, and returned."""
        over: list[str] = []
        for _ in range(100):
            done = teller.round()
            self.journal.reported(done.over)
            over += done.over
            if not (done.published or done.more):
                return over
        raise AssertionError("it never came to rest")

    def heard(self, queue: str = QUEUE, most: int = 10**9) -> list[dict[str, Any]]:
        channel = self.lab.publisher._connection.channel()
        found: list[dict[str, Any]] = []
        while len(found) < most:
            method, _, body = channel.basic_get(queue, auto_ack=True)
            if method is None:
                break
            found.append(json.loads(unseal(body.decode(), [self.key])))
        channel.close()
        return found

    def words(self, queue: str = QUEUE) -> list[str]:
        return [word(report) for report in self.heard(queue)]

    def close(self) -> None:
        for teller in self.tellers:
            teller.close()
        self.journal.close()


def word(report: dict[str, Any]) -> str:
    if "progress" in report:
        return str(report["progress"].get("state", "Prestart"))
    return str(report["logging"]["message"])


@pytest.fixture
def desk(lab: Any, clock: Any, tmp_path: Path, key: rsa.RSAPrivateKey) -> Iterator[Desk]:
    made = Desk(lab, clock, tmp_path, key)
    yield made
    made.close()


def test_an_experiment_is_told_from_its_queue_to_its_end(desk: Desk) -> None:
    e = desk.experiment()
    teller = desk.teller()
    desk.tell(teller)
    desk.start(e, "b1")
    desk.prints("b1", "epoch 1\nepo")
    desk.tell(teller)
    desk.note("b1", "metadata", json='{"loss": 0.5}')
    desk.prints("b1", "ch 2\n")
    desk.tell(teller)
    desk.end(e)
    assert desk.tell(teller) == [e]
    reports = desk.heard()
    assert [word(r) for r in reports] == [
        *("scanning queue", "Started", "start", "epoch 1"),
        *("Started", "epoch 2", "stop", "Success"),
    ]
    assert reports[4]["progress"]["json"] == '{"loss":0.5}'
    assert {r.get("experimentId") for r in reports[1:]} == {f"key-{e}"}
    assert {r.get("uniqueId") for r in reports[1:]} == {"n1-b1"}
    assert [r["executorId"] for r in reports] == ["login"] + ["n1"] * 7
    assert desk.journal.reports_due() == []


def test_a_gateway_that_starts_anew_goes_on_where_the_last_one_stopped(desk: Desk) -> None:
    e = desk.experiment()
    desk.start(e, "b1")
    desk.prints("b1", "one\ntwo\nhal")
    desk.tell(desk.teller())
    desk.tellers.pop().close()
    desk.prints("b1", "f\n")
    desk.again(e)
    desk.tell(desk.teller())
    desk.tellers.pop().close()
    desk.start(e, "b2")
    desk.prints("b2", "three\n")
    desk.end(e)
    assert desk.tell(desk.teller()) == [e]
    assert desk.words() == [
        *("scanning queue", "Started", "start", "one", "two", "half", "stop", "Failed"),
        *("Prestart", "Started", "start", "three", "stop", "Success"),
    ]


def test_killed_between_a_report_and_its_position_it_repeats_and_loses_none(desk: Desk) -> None:
    e = desk.experiment()
    desk.start(e, "b1")
    desk.prints("b1", "one\ntwo\nthree\n")
    desk.tell(desk.teller())
    before = desk.tellers[0]._positions[e]
    desk.prints("b1", "four\nfive\n")
    desk.tell(desk.tellers[0])
    desk.tellers.pop().close()
    positions = Positions(desk.spool.positions)
    positions.keep({e: before})
    positions.close()
    desk.end(e)
    desk.tell(desk.teller())
    assert desk.words()[3:] == ["one", "two", "three", *("four", "five") * 2, "stop", "Success"]


def test_while_the_broker_is_away_reports_wait_and_then_go_on_in_order(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.url = desk.lab.relayed_url
    desk.server = RabbitResponder(desk.url).name
    e = desk.experiment()
    desk.start(e, "b1")
    desk.prints("b1", "one\n")
    teller = desk.teller()
    desk.tell(teller)
    desk.lab.relay.open = False
    desk.lab.relay.cut()
    for number in range(3):
        desk.prints("b1", f"away {number}\n")
        assert desk.tell(teller) == []
        desk.clock.forward(120)
    desk.end(e)
    desk.tell(teller)
    assert caplog.text.count("reports:") <= 2  # broken off, then not to be reached
    desk.lab.relay.open = True
    desk.clock.forward(120)
    assert desk.tell(teller) == [e]
    assert desk.words()[3:] == ["one", "away 0", "away 1", "away 2", "stop", "Success"]


def test_a_response_queue_that_is_deleted_ends_the_reports_of_its_experiments_only(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    desk.lab.publisher.declare("rmq_mine_other_response")
    going, staying = desk.experiment("rmq_mine_other"), desk.experiment()
    (desk.keys / "rmq_").write_bytes(public_pem(desk.key))
    teller = desk.teller()
    desk.tell(teller)
    desk.lab.delete_queue("rmq_mine_other_response")
    for e, batch in ((going, "b1"), (staying, "b2")):
        desk.start(e, batch)
        desk.prints(batch, "line\n")
    assert desk.tell(teller) == [going]
    assert desk.words() == ["scanning queue", "Started", "start", "line"]
    assert [e.id for e in desk.journal.reports_due()] == [staying]
    assert caplog.text.count("no queue rmq_mine_other_response") == 1
    desk.end(staying)
    assert desk.tell(teller) == [staying]


def test_a_queue_without_a_key_gets_no_reports_and_the_log_says_so_once(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    desk.lab.publisher.declare("rmq_theirs_response")
    both = [desk.experiment("rmq_theirs") for _ in range(2)]
    assert desk.tell(desk.teller()) == both
    assert desk.lab.ready("rmq_theirs_response") == 0
    assert caplog.text.count("no reports of rmq_theirs") == 1


def test_the_key_is_chosen_by_the_response_queues_own_name(desk: Desk) -> None:
    """A file named as the queue of requests fits too, but ``rmq_mine_r`` is the longer prefix."""
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (desk.keys / QUEUE).unlink()
    (desk.keys / "rmq_mine").write_bytes(public_pem(other))
    (desk.keys / "rmq_mine_r").write_bytes(public_pem(desk.key))
    desk.experiment()
    desk.tell(desk.teller())
    assert desk.words() == ["scanning queue"]


def test_a_rejected_experiment_is_told_why(desk: Desk) -> None:
    e = desk.experiment(
        state=State.REJECTED, spec=None, text="no partition has 900 GB", ended_at=desk.clock()
    )
    assert desk.tell(desk.teller()) == [e]
    _, failed = desk.heard()
    assert failed["progress"]["state"] == "Failed"
    assert failed["progress"]["error"] == {"msg": "no partition has 900 GB", "code": -1}
    assert failed["experimentId"] == f"key-{e}"


def test_one_that_talks_a_lot_holds_up_nobody_else(desk: Desk) -> None:
    loud, quiet = desk.experiment(), desk.experiment()
    for e, batch in ((loud, "b1"), (quiet, "b2")):
        desk.start(e, batch)
    desk.prints("b1", "".join(f"line {n}\n" for n in range(100_000)))
    desk.prints("b2", "a few words\n")
    teller = desk.teller()
    teller.round()  # both were seen to be there
    assert teller.round().more
    heard = desk.heard()
    mine = [word(r) for r in heard if r.get("experimentId") == f"key-{quiet}"]
    assert mine == ["Started", "start", "a few words"]
    assert len(heard) < 2000


def test_a_backlog_of_a_hundred_thousand_lines_waits_in_its_log_file(desk: Desk) -> None:
    """The response queue takes 100 reports and no more until somebody fetches them."""
    desk.lab.delete_queue(QUEUE)
    channel = desk.lab.publisher._connection.channel()
    bounds = {"x-max-length": 100, "x-overflow": "reject-publish"}
    channel.queue_declare(QUEUE, arguments=bounds)
    channel.close()
    e = desk.experiment()
    desk.start(e, "b1")
    desk.prints("b1", "".join(f"line {n}\n" for n in range(100_000)))
    desk.end(e)
    teller = desk.teller()
    heard: list[str] = []
    for _ in range(4):
        assert desk.tell(teller) == []
        fetched = desk.words()
        assert 0 < len(fetched) <= 300  # what is on its way when the queue fills up goes in
        heard += fetched
        desk.clock.forward(60)
    assert heard[:3] == ["scanning queue", "Started", "start"]
    assert heard[3:] == [f"line {n}" for n in range(len(heard) - 3)]
    assert teller._positions[e].log == sum(len(line) + 1 for line in heard[3:])
    # A queue that was full is let alone for a while.
    desk.tell(teller)
    full = desk.lab.ready(QUEUE)
    desk.heard(most=10)
    desk.tell(teller)
    assert desk.lab.ready(QUEUE) == full - 10
    # Nobody fetches any more: given up a day after the end, so that the log may go.
    desk.tell(teller)
    desk.clock.forward(TOLD_FOR)
    assert desk.tell(teller) == [e]


def test_a_log_that_is_no_file_is_not_waited_for(desk: Desk) -> None:
    e = desk.experiment()
    desk.start(e, "b1")
    desk.spool.log("b1", 1).unlink()
    os.mkfifo(desk.spool.log("b1", 1))
    desk.end(e)
    assert desk.tell(desk.teller()) == [e]
    assert desk.words() == ["scanning queue", "Started", "start", "stop", "Success"]


def test_damaged_positions_are_begun_anew(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.spool.positions.write_bytes(b"no database at all" * 300)
    e = desk.experiment(state=State.REJECTED, spec=None, text="no", ended_at=desk.clock())
    assert desk.tell(desk.teller()) == [e]
    assert "begun anew" in caplog.text
    assert desk.spool.positions.stat().st_mode & 0o077 == 0


def test_the_reports_of_a_server_that_is_not_served_any_more_are_given_up_in_the_end(
    desk: Desk,
) -> None:
    desk.server = "amqp://gone:5672"
    e = desk.experiment()
    teller = desk.teller()
    assert desk.tell(teller) == []
    desk.end(e)
    desk.clock.forward(TOLD_FOR)
    assert desk.tell(teller) == [e]


def test_the_gateways_thread_tells_to_the_end_and_the_journal_knows(
    desk: Desk, eventually: Callable[..., None]
) -> None:
    """The parts as a gateway has them, with keys that only the options name."""
    options = QueueOptions(gateway_id="g", amqp_url=desk.url)
    e = desk.experiment(received_at=time.time())
    desk.start(e, "b1")
    desk.prints("b1", "one\n")
    reporter = Reporter(desk.journal, lambda: open_teller(desk.spool, options, str(desk.keys)))
    reporter.step()
    eventually(lambda: desk.lab.ready(QUEUE) == 4)
    desk.end(e)
    reporter.finish(time.sleep, lambda: True)
    reporter.close()
    assert desk.words() == ["scanning queue", "Started", "start", "one", "stop", "Success"]
    assert desk.journal.find(e)[0].reports is Reports.OVER


def test_a_fault_in_the_thread_is_logged_and_it_goes_on(
    desk: Desk,
    eventually: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("hpcrunner.gateway.reports.reporter._TROUBLED", 0.01)
    options = QueueOptions(gateway_id="g", amqp_url=desk.url)
    opened = []

    def open_at_last() -> Teller:
        opened.append(1)
        if len(opened) < 3:
            raise OSError(28, "No space left on device")
        return open_teller(desk.spool, options, str(desk.keys))

    e = desk.experiment(state=State.REJECTED, spec=None, text="no", ended_at=time.time())
    reporter = Reporter(desk.journal, open_at_last)
    reporter.step()
    eventually(lambda: (reporter.step(), desk.journal.find(e)[0].reports is Reports.OVER)[1])
    reporter.close()
    assert caplog.text.count("No space left") == 1
    assert "reports go on" in caplog.text


def test_the_listener_of_the_documentation_hears_it_all(
    desk: Desk, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (tmp_path / "listen.py").write_text(code)
    pem = desk.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    (tmp_path / "reports.pem").write_bytes(pem)
    desk.lab.delete_queue(QUEUE)
    words = (tmp_path / "listen.py", desk.lab.url, QUEUE, tmp_path / "reports.pem")
    with (tmp_path / "heard").open("wb") as out:
        listener = subprocess.Popen([sys.executable, *words], stdout=out)
    try:
        names = lambda: [q["name"] for q in desk.lab.api("GET", f"/queues/{desk.lab._escaped}")]  # noqa: E731
        eventually(lambda: QUEUE in names())
        e = desk.experiment()
        desk.start(e, "b1")
        desk.prints("b1", "größer\n")
        desk.end(e)
        desk.tell(desk.teller())
        eventually(lambda: len((tmp_path / "heard").read_bytes().splitlines()) == 6)
    finally:
        listener.kill()
        listener.wait()
    heard = [json.loads(line) for line in (tmp_path / "heard").read_text().splitlines()]
    assert [word(r) for r in heard] == [
        *("scanning queue", "Started", "start", "größer", "stop", "Success")
    ]
