"""What the gateway carries: fetched once, sent before anybody is told, and tried for long."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from s3_server import S3Server, s3_server

from hpcrunner.client.build import Work
from hpcrunner.client.upload import upload_work
from hpcrunner.gateway.endings import with_unsaved
from hpcrunner.gateway.experiment import Experiment, Outcome, State
from hpcrunner.gateway.preparation import READY, Failed, Standing, Waiting
from hpcrunner.gateway.staging import mirrors, objects
from hpcrunner.gateway.staging.fetching import THREADS, Fetching
from hpcrunner.gateway.staging.layout import Layout, parsed
from hpcrunner.gateway.staging.marks import read_mark
from hpcrunner.gateway.staging.objects import Objects
from hpcrunner.gateway.staging.uploads import Uploads
from hpcrunner.request.location import Location
from hpcrunner.request.model import AwsCredentials, Request
from hpcrunner.request.parse import parse_message
from hpcrunner.request.plan import PlannedExperiment
from hpcrunner.request.plan_experiment import plan_experiment
from hpcrunner.request.reasons import Reason
from hpcrunner.request.record import Record, SavedArtifact
from hpcrunner.storage.contract import DiskBudgetExceeded, Download
from hpcrunner.storage.file import FileStore

DEADLINE = 120.0


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as made:
        yield made


class Desk:
    """A journal with experiments whose artifacts are in S3, and what carries them."""

    def __init__(self, parts: Any, s3: S3Server, folder: Path) -> None:
        self.parts = parts
        self.s3 = s3
        self.code = folder / "code"
        self.code.mkdir()
        (self.code / "run.py").write_text("print(1)")
        self.layout = Layout(folder / "staging")
        self.layout.prepare()
        self.objects = Objects(self.layout)
        self.fetching = Fetching(self.layout, self.objects)
        self.uploads = self.new_uploads()
        self.denied = ""  # the store does not let us write the artifact of that tag

    def new_uploads(self, **how: Any) -> Uploads:
        usual = {"look_every": 0.05, "compare_every": 0.1, "clean_every": 0.2}
        return Uploads(self.layout, self.objects, self.parts.journal, self.plan, **{**usual, **how})

    def plan(self, e: Experiment) -> PlannedExperiment:
        request = parse_message(self.parts.journal.message(e.id))
        assert isinstance(request, Request)
        planned = plan_experiment(request, id=e.id, attempt=e.attempt)
        wrong = AwsCredentials("nobody", "knows")
        artifacts = tuple(
            replace(a, location=replace(a.location, credentials=wrong))
            if a.tag == self.denied
            else a
            for a in planned.artifacts
        )
        return replace(planned, artifacts=artifacts)

    def add(self, change: Callable[[dict[str, Any]], object] = lambda m: None) -> Experiment:
        key, body = upload_work(Work("run.py", hdd="1g"), self.code, self.s3.stores)
        message = json.loads(body)
        change(message["experiment"]["artifacts"])
        self.parts.pile.put(json.dumps(message).encode())
        self.parts.intake.drain(10)
        found: Experiment = self.parts.journal.find(key)[-1]
        return found

    def fetched(self, *experiments: Experiment) -> list[Standing | None]:
        """How these stand once nothing waits any more."""
        for e in experiments:
            self.fetching.want(e, self.plan(e))
        end = time.monotonic() + DEADLINE
        while True:
            standings = [self.fetching.standing(e) for e in experiments]
            if not any(isinstance(s, Waiting) for s in standings):
                return standings
            assert time.monotonic() < end, standings
            time.sleep(0.02)

    def running(self) -> Experiment:
        """An experiment that was fetched and whose job runs."""
        e = self.add(with_results)
        assert self.fetched(e) == [READY]
        self.parts.dispatch.step()
        self.parts.journal.running([(e.id, "n1", None)])
        found: Experiment = self.parts.journal.of_id(e.id)
        return found

    def save(self, e: Experiment, tag: str, content: bytes) -> SavedArtifact:
        """What the job side does."""
        place = self.layout.place((e.id, e.attempt), tag, mutable=True)
        source = self.code.parent / "packed"
        source.write_bytes(content)
        with source.open("rb") as file:
            FileStore().put(Location("file", key=str(place)), file, len(content))
        import hashlib

        return SavedArtifact(tag, "there", len(content), hashlib.sha256(content).hexdigest())

    def stored(self, e: Experiment, tag: str) -> bytes | None:
        try:
            path = self.s3.buckets / "artifacts" / "experiments" / e.key / f"{tag}.tar"
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def until(self, holds: Callable[[], object]) -> None:
        end = time.monotonic() + DEADLINE
        while not holds():
            assert time.monotonic() < end
            self.uploads.step()
            time.sleep(0.02)

    def settled(self, e: Experiment, *saved: SavedArtifact, hurry: bool = False) -> tuple[str, ...]:
        """What could not be sent of an attempt that has ended."""
        answers: list[tuple[str, ...] | None] = []

        def asked() -> bool:
            answers.append(self.uploads.settle(e, record_of(e, *saved), hurry=hurry))
            return answers[-1] is not None

        self.until(asked)
        assert answers[-1] is not None
        return answers[-1]

    def close(self) -> None:
        self.fetching.close()
        self.uploads.close()


def with_results(artifacts: dict[str, Any]) -> None:
    retval = json.dumps(artifacts["retval"])
    artifacts["_results"] = json.loads(retval.replace("retval.tar", "_results.tar"))


def record_of(e: Experiment, *saved: SavedArtifact) -> Record:
    return Record(
        batch=e.batch,
        index=e.task,
        experiment=e.id,
        attempt=e.attempt,
        reason=Reason.COMPLETED,
        text="",
        exit_code=0,
        signal=None,
        host="n1",
        job_id=e.job_id,
        started_at=0.0,
        payload_started_at=0.0,
        ended_at=0.0,
        last_lines=(),
        saved=saved,
    )


@pytest.fixture
def desk(parts: Any, s3: S3Server, tmp_path: Path) -> Iterator[Desk]:
    made = Desk(parts, s3, tmp_path)
    yield made
    made.close()


def test_experiments_of_one_code_share_one_copy(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiments = [desk.add() for _ in range(20)]
    fetches: list[Location] = []
    fetch = desk.objects.fetch
    monkeypatch.setattr(
        desk.objects, "fetch", lambda *words: fetches.append(words[0]) or fetch(*words)
    )
    assert desk.fetched(*experiments) == [READY] * 20
    assert len(list(desk.layout.objects.iterdir())) == 1
    assert len({p.stat().st_ino for p in desk.layout.incoming.iterdir()}) == 1
    assert len(list(desk.layout.incoming.iterdir())) == 20
    assert len([place for place in fetches if "blobstore" in place.key]) == 1
    plan = desk.fetching.apply(experiments[0], desk.plan(experiments[0]))
    assert {a.location.scheme for a in plan.artifacts} == {"file"}
    assert plan.record is not None and plan.record.scheme == "file"
    assert "s3cr3t-key" not in json.dumps(plan.document) + repr(plan.artifacts)
    assert str(plan.artifacts[0].address).startswith("s3://127.0.0.1")


def test_what_is_not_there_is_none_where_it_is_mutable_and_else_a_failure(desk: Desk) -> None:
    def misname(artifacts: dict[str, Any]) -> None:
        artifacts["workspace"].update(key="blobstore/none.tar", qualified="")

    sound, without_code = desk.add(), desk.add(misname)
    ready, failed = desk.fetched(sound, without_code)
    assert ready is READY
    assert isinstance(failed, Failed) and failed.reason is Reason.ARTIFACT_NOT_FOUND
    assert "blobstore/none.tar" in failed.text
    assert list(desk.layout.out.iterdir()) == []


def test_an_object_far_larger_than_the_experiments_disk_is_not_fetched(desk: Desk) -> None:
    large = desk.s3.buckets / "artifacts" / "large.tar"
    with large.open("wb") as file:
        file.truncate(50 << 20)
    e = desk.add(lambda a: a["workspace"].update(key="large.tar", qualified=""))
    planned = replace(desk.plan(e), disk_budget=10 << 20)
    desk.fetching.want(e, planned)
    desk.until(lambda: not isinstance(desk.fetching.standing(e), Waiting))
    failed = desk.fetching.standing(e)
    assert isinstance(failed, Failed) and failed.reason is Reason.DISK_BUDGET
    assert list(desk.layout.objects.iterdir()) == [], "nothing half-written"


def test_an_object_without_end_leaves_room_for_others(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a server that does not say how much it sends, for a request without a disk budget."""
    free = [10 << 30]

    class Endless:
        def read(self, size: int) -> bytes:
            free[0] -= 1 << 30
            return bytes(64 << 20)

    class Store:
        @contextmanager
        def open(self, location: Location) -> Iterator[Any]:
            yield Download(Endless(), -1, "")

    def usage(path: Path) -> Any:
        return shutil._ntuple_diskusage(100 << 30, 0, free[0])  # type: ignore[attr-defined]

    monkeypatch.setattr(objects, "store_for", lambda location: Store())
    monkeypatch.setattr(shutil, "disk_usage", usage)
    location = Location("http", "a", endpoint="http://store.example/a")
    with pytest.raises(objects.NoRoom):
        desk.objects.fetch(location, None, None, lambda: False)
    assert free[0] > 0
    assert list(desk.layout.objects.iterdir()) == [], "nothing half-written"
    monkeypatch.setattr(objects, "_MOST", 0.001)
    free[0] = 10 << 30
    with pytest.raises(DiskBudgetExceeded, match="ever carried"):
        desk.objects.fetch(location, None, None, lambda: False)


@contextmanager
def dripping() -> Iterator[str]:
    """A server that takes connections, and never comes to the end of an answer's first line."""
    over = threading.Event()

    def drip(client: socket.socket) -> None:
        with suppress(OSError), client:
            client.sendall(b"HTTP/1.1 200 ")
            while not over.wait(0.05):
                client.sendall(b"x")

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        over.set()


def test_a_store_that_hangs_holds_up_no_other_and_is_given_up(desk: Desk) -> None:
    with dripping() as store:
        hangs = {"key": "", "bucket": "", "qualified": f"{store}/code.tar"}
        first, second = (desk.add(lambda a: a["workspace"].update(hangs)) for _ in range(2))
        sound = desk.add()
        desk.fetching = Fetching(desk.layout, desk.objects, threads=2, of_one_store=1)
        for e in (first, second):
            desk.fetching.want(e, desk.plan(e))
        assert desk.fetched(sound) == [READY]
        assert isinstance(desk.fetching.standing(first), Waiting)
        desk.fetching.close()
        # With one thread there is none for others, until the one that hangs is written off.
        desk.fetching = Fetching(desk.layout, desk.objects, threads=1)
        wanted = {(e.id, e.attempt) for e in (first, second, sound)}
        for e in (first, second, sound):
            desk.fetching.want(e, desk.plan(e))

        def hanging() -> list[Any]:
            asked = list(desk.fetching._asking.values())
            return [asking for asking in asked if asking.where.startswith(store)]

        for e in (first, second):
            desk.until(hanging)
            desk.fetching.step(wanted)
            assert isinstance(desk.fetching.standing(e), Waiting)
            hanging()[0].moved_at -= 3600
            desk.fetching.step(wanted)
            failed = desk.fetching.standing(e)
            assert isinstance(failed, Failed) and failed.reason is Reason.STORE_UNREACHABLE
            assert failed.text.startswith(f"{store}/code.tar: next to nothing came for 10m")
        desk.until(lambda: desk.fetching.standing(sound) is READY)


def test_an_object_that_changed_after_the_look_is_not_taken_for_what_was_looked_at(
    desk: Desk,
) -> None:
    object_, e = desk.s3.buckets / "artifacts" / "code.tar", desk.add()
    object_.write_bytes(b"one")
    location = replace(desk.plan(e).artifacts[0].location, key="code.tar")
    looked_at = desk.objects.identify(location)
    assert looked_at is not None
    object_.write_bytes(b"two")
    desk.objects.fetch(location, looked_at, None, lambda: False)
    assert desk.objects.found(looked_at) is None
    now = desk.objects.identify(location)
    assert now is not None and now != looked_at
    two = desk.objects.fetch(location, now, None, lambda: False)
    assert desk.objects.found(now) == two


def test_a_full_disk_costs_one_thread_and_hides_no_failure(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[object] = []

    def full(*words: object) -> str:
        tried.append(words)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(desk.objects, "fetch", full)
    before = threading.active_count()
    experiments = [desk.add() for _ in range(20)]
    for e in experiments:
        desk.fetching.want(e, desk.plan(e))
    desk.until(lambda: len(tried) >= 20)
    assert threading.active_count() <= before + THREADS + 5
    one = desk.fetching._fetches[experiments[0].id, 1]
    desk.fetching._fail(one, Failed(Reason.ARTIFACT_NOT_FOUND, "no such object"))
    desk.fetching._again(one, desk.fetching._begin, "the disk is full")
    assert isinstance(desk.fetching.standing(experiments[0]), Failed)


def test_what_is_cancelled_is_fetched_no_more_and_removed(desk: Desk) -> None:
    e = desk.add()
    assert desk.fetched(e) == [READY]
    desk.fetching.step(())
    assert desk.fetching.standing(e) is None
    desk.parts.journal.end([(e.id, Outcome(State.CANCELLED, Reason.CANCELLED, ""))])
    desk.until(lambda: not list(desk.layout.attempts.iterdir()))
    assert [p for f in desk.layout.by_attempt for p in f.iterdir()] == []
    desk.objects.sweep(time.time() + 90000)
    assert list(desk.layout.objects.iterdir()) == []


def test_what_a_running_job_saves_is_sent_once_for_each_change(desk: Desk) -> None:
    e = desk.running()
    desk.save(e, "modeldir", b"one")
    desk.until(lambda: desk.stored(e, "modeldir") == b"one")
    saved = desk.save(e, "modeldir", b"two")
    mark = desk.layout.stored / desk.layout.place((e.id, 1), "modeldir", mutable=True).name
    desk.until(lambda: (m := read_mark(mark)) is not None and m.sha256 == saved.sha256)
    assert desk.stored(e, "modeldir") == b"two"
    path = desk.s3.buckets / "artifacts" / "experiments" / e.key / "modeldir.tar"
    before = path.stat().st_mtime_ns
    desk.uploads.close()
    desk.uploads = desk.new_uploads()  # a gateway that was started again
    assert desk.settled(e, saved) == ()
    assert path.stat().st_mtime_ns == before, "what the store has is not sent again"


def test_a_store_that_hangs_holds_up_no_results_of_another(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.uploads.close()
    desk.uploads = desk.new_uploads(threads=2)
    plan, hanging, let_go = desk.plan, set[str](), threading.Event()

    def elsewhere(e: Experiment) -> PlannedExperiment:
        planned = plan(e)
        if e.id not in hanging:
            return planned
        moved = (replace(a.location, endpoint="http://hangs.example") for a in planned.artifacts)
        pairs = zip(planned.artifacts, moved, strict=True)
        return replace(planned, artifacts=tuple(replace(a, location=to) for a, to in pairs))

    send = desk.uploads._sender.send
    monkeypatch.setattr(desk.uploads, "_plan", elsewhere)
    monkeypatch.setattr(
        desk.uploads._sender,
        "send",
        lambda job: send(job) if job.attempt[0] not in hanging else let_go.wait(DEADLINE),
    )
    first, second, sound = (desk.running() for _ in range(3))
    hanging |= {first.id, second.id}
    for e in (first, second):
        assert desk.uploads.settle(e, record_of(e)) is None
    assert desk.settled(sound, desk.save(sound, "modeldir", b"one")) == ()
    assert desk.stored(sound, "modeldir") == b"one"
    assert desk.uploads.settle(first, record_of(first)) is None
    let_go.set()


def test_the_end_waits_for_a_store_that_is_away(desk: Desk, tmp_path: Path) -> None:
    e = desk.running()
    desk.s3.stop()
    try:
        saved = [desk.save(e, "retval", b"42"), desk.save(e, "_results", b"ok")]
        assert desk.uploads.settle(e, record_of(e, *saved)) is None
        desk.until(lambda: desk.uploads._away)  # it was tried, and there was no answer
        assert desk.uploads.settle(e, record_of(e, *saved)) is None
    finally:
        desk.s3.start()
    assert desk.settled(e, *saved) == ()
    assert desk.stored(e, "retval") == b"42"


def test_results_that_cannot_be_sent_end_as_failed_uploads_and_stay(desk: Desk) -> None:
    e = desk.running()
    saved = [desk.save(e, "retval", b"42"), desk.save(e, "_results", b"ok")]
    desk.denied = "retval"
    lines = desk.settled(e, *saved)
    assert lines[0].startswith("artifact retval was not saved: ")
    assert desk.stored(e, "_results") is None, "which would say that all is there"
    outcome = with_unsaved(Outcome(State.SUCCEEDED, Reason.COMPLETED, "ended", 0), lines)
    assert (outcome.state, outcome.reason) == (State.FAILED, Reason.UPLOAD_FAILED)
    desk.denied = ""
    over = desk.running()
    desk.parts.journal.end(
        [(e.id, outcome), (over.id, Outcome(State.CANCELLED, Reason.CANCELLED, ""))]
    )
    desk.until(lambda: not desk.layout.marker((over.id, 1)).exists())
    kept = desk.layout.place((e.id, 1), "retval", mutable=True)
    assert str(kept.parent) in lines[-1] and kept.read_bytes() == b"42"


def test_results_of_a_failure_that_cannot_be_sent_stay_too(desk: Desk) -> None:
    e = desk.running()
    saved = desk.save(e, "retval", b"42")
    desk.denied = "retval"
    lines = desk.settled(e, saved)
    outcome = with_unsaved(Outcome(State.FAILED, Reason.PAYLOAD_EXIT, "ended", 1), lines)
    assert outcome.reason is Reason.PAYLOAD_EXIT
    desk.denied = ""
    over = desk.running()
    desk.parts.journal.end(
        [(e.id, outcome), (over.id, Outcome(State.CANCELLED, Reason.CANCELLED, ""))]
    )
    desk.uploads.close()
    desk.uploads = desk.new_uploads()  # a gateway that was started again
    desk.until(lambda: not desk.layout.marker((over.id, 1)).exists())
    kept = desk.layout.place((e.id, 1), "retval", mutable=True)
    assert str(kept.parent) in lines[-1] and kept.read_bytes() == b"42"


def test_the_word_that_all_is_there_goes_last(desk: Desk) -> None:
    e = desk.running()
    saved = [desk.save(e, "_results", b"ok"), desk.save(e, "modeldir", b"model")]
    desk.until(lambda: desk.stored(e, "modeldir") == b"model")
    saved[1] = desk.save(e, "modeldir", b"a better one")
    desk.until(lambda: desk.stored(e, "modeldir") == b"a better one")
    assert desk.stored(e, "_results") is None
    saved.append(desk.save(e, "retval", b"42"))
    assert desk.settled(e, *saved) == ()
    assert desk.stored(e, "_results") == b"ok"


def test_a_fault_of_ours_while_results_are_sent_is_no_end_that_never_comes(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    e = desk.running()
    saved = desk.save(e, "retval", b"42")

    def fault(*_: object) -> object:
        raise RuntimeError("of ours")

    with monkeypatch.context() as broken:
        broken.setattr(desk.uploads._sender, "send", fault)
        assert desk.uploads.settle(e, record_of(e, saved)) is None
        ending = desk.uploads._endings[e.id, 1]
        desk.until(lambda: ending.troubles)
        assert "RuntimeError: of ours" in ending.troubles[0].text
    assert desk.settled(e, saved) == ()
    assert desk.stored(e, "retval") == b"42"


def test_somebody_who_cancels_waits_for_no_store(desk: Desk) -> None:
    e = desk.running()
    saved = desk.save(e, "retval", b"42")
    desk.s3.stop()
    try:
        assert "retval" in desk.settled(e, saved, hurry=True)[0]
    finally:
        desk.s3.start()


def test_a_file_that_the_file_system_does_not_show_yet_is_waited_for(desk: Desk) -> None:
    e = desk.running()
    old = desk.save(e, "retval", b"old")
    assert desk.settled(e, old) == ()
    desk.uploads.close()
    desk.uploads = desk.new_uploads()
    hidden = desk.save(e, "retval", b"new")
    place = desk.layout.place((e.id, 1), "retval", mutable=True)
    shutil.move(place, place.with_name(".hidden"))
    desk.save(e, "retval", b"old")
    answers = []
    desk.until(lambda: answers.append(desk.uploads.settle(e, record_of(e, hidden))) or answers[2:])
    assert answers == [None, None, None]
    place.with_name(".hidden").rename(place)
    assert desk.settled(e, hidden) == ()
    assert desk.stored(e, "retval") == b"new"


def status_in(record: Path) -> str:
    """Empty while nobody can read it: a store may replace a file in more than one step."""
    try:
        return str(json.loads(record.read_text())["status"])
    except (FileNotFoundError, ValueError):
        return ""


def test_a_clients_wish_to_stop_reaches_the_job_and_its_record_tells_how_it_is(desk: Desk) -> None:
    e = desk.running()
    ours = desk.layout.record((e.id, 1))
    theirs = desk.s3.buckets / "meta" / "experiments" / e.key
    record = json.loads(ours.read_text())
    assert record["status"] == "waiting" and "s3cr3t-key" not in ours.read_text()
    ours.write_text(json.dumps({**record, "status": "running", "time_started": 7.0}))
    desk.until(lambda: status_in(theirs) == "running")
    stopped = {**json.loads(theirs.read_text()), "status": "stopped"}
    theirs.write_text(json.dumps(stopped))
    desk.until(lambda: status_in(ours) == "stopped")
    assert json.loads(theirs.read_text())["time_started"] == 7.0


@pytest.mark.parametrize(
    ("theirs", "ours", "told"),
    [
        ("waiting", {"status": "waiting"}, "waiting"),
        ("waiting", {"status": "running", "time_started": 1.0}, "running"),
        ("running", {"status": "finished", "time_started": 1.0, "time_finished": 2.0}, "running"),
        ("running", {"status": "waiting", "time_started": 1.0, "hpcrunner": {}}, "waiting"),
        ("stopped", {"status": "running", "time_started": 1.0}, "stopped"),
    ],
)
def test_only_the_gateway_tells_that_it_is_over(theirs: str, ours: Any, told: str) -> None:
    record = {"status": theirs, "key": "k"}
    mirrors.tell(record, ours)
    assert record["status"] == told
    assert record.get("time_finished") is None


@pytest.mark.parametrize("name", ["", ".part", "x.1.tag", "0123456789ab", "0123456789ab.x.tag"])
def test_names_that_are_not_ours_are_passed_over(name: str) -> None:
    assert parsed(name) is None
    assert parsed("0123456789ab.12.a%2Fb.c") == (("0123456789ab", 12), "a/b.c")
