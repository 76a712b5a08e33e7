"""The client's database hears of every ending, whoever knows it, and no store stalls a round."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.queue_servers import free_port
from hpcrunner.gateway.client_records import (
    FIRST_PAUSE,
    GIVE_UP_AFTER,
    ClientRecords,
    job_side_told,
    last_word,
)
from hpcrunner.gateway.experiment import Experiment, State
from hpcrunner.gateway.opening import Opener
from hpcrunner.gateway.spool import Verb
from hpcrunner.keys.options import KeyOptions
from hpcrunner.request.reasons import Reason
from hpcrunner.request.record import Record
from hpcrunner.schedulers.contract import JobState, Sighting, Verdict

CLEAR = Opener(options=KeyOptions(clear_text=True))
SEALED_ONLY = Opener(options=KeyOptions(clear_text=False))


class Steady:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """The telling part of a gateway, a folder that is the client's database, and its messages."""

    def __init__(self, parts: Any, folder: Path, message: Callable[..., bytes]) -> None:
        self.parts = parts
        self.folder = folder / "db" / "meta" / "experiments"
        self.folder.mkdir(parents=True)
        self._message = message
        self.steady = Steady()
        self.database: dict[str, Any] = {
            "type": "local",
            "endpoint": str(folder / "db"),
            "bucket": "meta",
        }
        self.start()

    def start(self, opener: Opener = CLEAR) -> None:
        """What a new gateway does."""
        self.records = ClientRecords(
            self.parts.journal,
            self.parts.spool,
            self.parts.site,
            opener,
            clock=self.parts.clock,
            steady=self.steady,
        )

    def send(self, key: str = "k", *, record: bool = True, **config: Any) -> Experiment:
        """Have a message with a record in the database taken in; the experiment it became."""
        raw = json.loads(self._message(key))
        now = self.parts.clock()
        raw["experiment"].update(time_added=now, status="waiting", time_started=None)
        raw["config"].update(database=self.database, **config)
        if record:
            self.write(key, raw["experiment"])
        self.parts.pile.put(json.dumps(raw).encode())
        self.parts.intake.drain(1)
        found: Experiment = self.parts.journal.find(key)[-1]
        return found

    def write(self, key: str, record: dict[str, Any]) -> None:
        (self.folder / key).write_text(json.dumps(record))

    def read(self, key: str = "k") -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / key).read_text())
        return found

    def tell(self) -> None:
        """Rounds until nothing is in the threads' hands."""
        until = time.monotonic() + 60
        self.records.finish(lambda _: time.sleep(0.01), lambda: time.monotonic() < until)
        assert time.monotonic() < until

    def submit(self) -> Experiment:
        self.parts.dispatch.step()
        (live,) = self.parts.journal.live()
        found: Experiment = live
        return found

    def ends(self, e: Experiment, reason: Reason, text: str, **more: Any) -> None:
        """The job side leaves its record, the scheduler says it is over, and it is judged."""
        record = Record(e.batch, e.task, e.id, e.attempt, reason, text, host="n1", **more)
        path = self.parts.spool.batch_folder(e.batch) / "records" / f"{e.task}.json"
        path.write_text(record.to_json())
        over = Sighting(Verdict.FOUND, JobState.ENDED, reason=Reason.COMPLETED, accounted=True)
        self.parts.scheduler.sightings[e.job_id] = over
        self.parts.track.step()


@pytest.fixture
def desk(parts: Any, tmp_path: Path, message: Callable[..., bytes]) -> Iterator[Desk]:
    made = Desk(parts, tmp_path, message)
    yield made
    made.records.close()


def event(outlook: str, reason: Reason) -> str:
    told = {"time": 1.0, "event": "client_told", "outlook": outlook, "reason": reason.value}
    return json.dumps(told) + "\n"


def test_what_is_cancelled_before_it_started_is_finished_with_its_reason(desk: Desk) -> None:
    e = desk.send()
    desk.tell()
    assert desk.read()["status"] == "waiting"
    desk.parts.spool.wish(Verb.CANCEL, [e.id])
    desk.parts.wishes.step()
    desk.tell()
    told = desk.read()
    assert (told["status"], told["time_started"]) == ("finished", None)
    assert told["time_finished"] == desk.parts.clock()
    assert told["hpcrunner"] == {
        "experiment": e.id,
        "attempt": 1,
        "reason": "CANCELLED",
        "text": "was cancelled before it was submitted",
    }


@pytest.mark.parametrize(
    ("config", "resources", "reason"),
    [
        ({"experimentLifetime": "-10m"}, {}, "LIFETIME_EXPIRED"),
        ({}, {"ram": "1tb"}, "REJECTED"),
    ],
)
def test_what_the_site_refuses_is_finished_with_its_reason(
    desk: Desk, config: dict[str, Any], resources: dict[str, Any], reason: str
) -> None:
    desk._message = lambda key, make=desk._message: make(key, **resources)
    e = desk.send(**config)
    assert (e.state, e.reason) == (State.REJECTED, Reason(reason))
    desk.tell()
    assert (desk.read()["status"], desk.read()["hpcrunner"]["reason"]) == ("finished", reason)


def test_nobody_can_have_us_write_somewhere_with_a_message_that_may_not_be_run(desk: Desk) -> None:
    desk.start(SEALED_ONLY)
    e = desk.send(experimentLifetime="-10m")
    desk.tell()
    assert desk.read()["status"] == "waiting"
    assert e.id not in desk.parts.journal.untold()


def test_what_the_job_side_has_told_is_not_told_again(desk: Desk) -> None:
    desk.send()
    e = desk.submit()
    path = desk.parts.spool.events(e.batch, e.task)
    path.write_text('{"event": "ended"}\n' + event("final", Reason.COMPLETED) + "torn {")
    desk.write("k", {"status": "as the job side left it"})
    desk.ends(e, Reason.COMPLETED, "ended well", exit_code=0)
    desk.tell()
    assert desk.read() == {"status": "as the job side left it"}
    assert desk.parts.journal.untold() == []


def test_a_job_that_died_without_telling_is_told_of(desk: Desk) -> None:
    desk.send()
    e = desk.submit()
    desk.write("k", {**desk.read(), "status": "running", "time_started": 5.0})
    desk.parts.scheduler.sightings[e.job_id] = Sighting(
        Verdict.FOUND, JobState.ENDED, reason=Reason.OUT_OF_MEMORY, accounted=True
    )
    desk.parts.track.step()
    desk.tell()
    told = desk.read()
    assert (told["status"], told["time_started"]) == ("finished", 5.0)
    assert told["hpcrunner"]["reason"] == "OUT_OF_MEMORY"


def test_an_attempt_that_is_followed_by_another_is_not_the_end(desk: Desk) -> None:
    desk.send()
    e = desk.submit()
    desk.ends(e, Reason.STORE_UNREACHABLE, "no store")
    desk.tell()
    (again,) = desk.parts.journal.live()
    assert again.attempt == 2
    assert desk.read()["status"] == "waiting"


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ("", False),
        (event("final", Reason.PAYLOAD_EXIT), True),
        (event("final", Reason.COMPLETED), False),  # the scheduler knew better
        (event("followed", Reason.PAYLOAD_EXIT), False),  # but it was not followed
        (event("final", Reason.PAYLOAD_EXIT) + event("followed", Reason.PAYLOAD_EXIT), False),
        ('{"event": "metadata", "json": "\\"client_told\\""}\n', False),
        ('["client_told"]\n', False),
        (event("final", Reason.PAYLOAD_EXIT).replace("}", ', "at": "s3"}'), True),
        (event("final", Reason.PAYLOAD_EXIT).replace("}", ', "at": "file"}'), False),  # staged
    ],
)
def test_only_the_same_ending_told_as_final_counts_as_told(events: str, told: bool) -> None:
    assert job_side_told(events.encode(), Reason.PAYLOAD_EXIT, "s3") is told


def test_a_record_of_a_later_submission_under_the_same_key_is_left_alone() -> None:
    e = Experiment("a", "k", "q", State.FAILED, 1.0, reason=Reason.LOST, text="gone")
    for added, status in ((105.0, "waiting"), (100.0, "finished"), (None, "finished")):
        record = {"status": "waiting", "time_added": added}
        last_word(e, 100.0, 200.0)(record)
        assert record["status"] == status


def test_a_record_that_the_client_deleted_is_not_made_again(desk: Desk) -> None:
    desk.send(record=False, experimentLifetime="-10m")
    desk.tell()
    assert list(desk.folder.iterdir()) == []
    assert desk.parts.journal.untold() == []


def test_an_experiment_without_a_database_has_nothing_to_tell(desk: Desk) -> None:
    desk.database = {"type": "http"}
    desk.send(experimentLifetime="-10m")
    desk.tell()
    assert desk.parts.journal.untold() == []


def test_what_was_untold_when_the_gateway_died_is_told_by_the_next(desk: Desk) -> None:
    desk.send(experimentLifetime="-10m")
    desk.parts.start()
    desk.start()
    desk.tell()
    assert desk.read()["status"] == "finished"
    desk.write("k", {"status": "changed since"})
    desk.parts.start()
    desk.start()
    desk.tell()
    assert desk.read() == {"status": "changed since"}


def test_who_was_retried_by_hand_goes_on_under_another_id_and_the_old_one_tells_nothing(
    desk: Desk,
) -> None:
    desk.send()
    e = desk.submit()
    desk.ends(e, Reason.ARTIFACT_NOT_FOUND, "no such object")
    desk.parts.spool.wish(Verb.RETRY, [e.id])
    desk.parts.wishes.step()
    assert desk.parts.journal.find(e.id)[0].retried_as
    desk.tell()
    assert desk.read()["status"] == "waiting"


@pytest.fixture
def hole() -> Iterator[socket.socket]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def test_a_store_that_hangs_stalls_no_round(desk: Desk, hole: socket.socket) -> None:
    url = f"http://127.0.0.1:{hole.getsockname()[1]}"
    folder = desk.database
    desk.database = {"type": "firebase", "databaseURL": url}
    desk.send("hangs", experimentLifetime="-10m")
    desk.records.step()
    connection, _ = hole.accept()  # the thread is at it, and stays there
    desk.database = folder
    e = desk.send("k", experimentLifetime="-10m")
    until = time.monotonic() + 60
    while e.id in desk.parts.journal.untold():
        assert time.monotonic() < until
        desk.records.step()
        time.sleep(0.01)
    assert desk.read()["status"] == "finished"
    assert len(desk.parts.journal.untold()) == 1
    connection.close()


def test_a_store_that_is_away_is_left_alone_for_a_while_and_tried_again(desk: Desk) -> None:
    port = free_port()
    desk.database = {"type": "firebase", "databaseURL": f"http://127.0.0.1:{port}"}
    for key in ("a", "b"):
        desk.send(key, experimentLifetime="-10m")
    desk.tell()
    assert len(desk.parts.journal.untold()) == 2
    with socket.create_server(("127.0.0.1", port)) as back:
        desk.tell()
        back.setblocking(False)
        with pytest.raises(BlockingIOError):
            back.accept()  # too early: nobody asked
        back.settimeout(60)
        desk.steady.now += FIRST_PAUSE + 1
        desk.records.step()
        connection, _ = back.accept()
        assert connection.recv(3) == b"GET"
        connection.close()


def test_after_a_day_it_is_given_up_and_said_so(desk: Desk) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    desk.database = {"type": "firebase", "databaseURL": url}
    e = desk.send(experimentLifetime="-10m")
    desk.tell()
    desk.parts.clock.forward(GIVE_UP_AFTER + 1)
    desk.steady.now += FIRST_PAUSE + 1
    desk.tell()
    assert desk.parts.journal.untold() == []
    assert "record was not told" in desk.parts.journal.history(e.id)[-1][2]


def test_a_record_that_cannot_be_written_is_given_up_at_once(desk: Desk) -> None:
    e = desk.send(experimentLifetime="-10m")
    (desk.folder / "k").write_text("{torn")
    desk.tell()
    assert desk.parts.journal.untold() == []
    assert "is not JSON" in desk.parts.journal.history(e.id)[-1][2]


def test_a_message_that_aged_out_is_nobodys_to_tell(desk: Desk) -> None:
    e = desk.send(experimentLifetime="-10m")
    desk.parts.journal.drop([e.id])
    desk.parts.journal.aging.blank([e.id])
    desk.tell()
    assert desk.parts.journal.untold() == []
