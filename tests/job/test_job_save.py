"""When artifacts are uploaded, and when not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hpcrunner.job.artifacts import uploader
from hpcrunner.job.events import Events
from hpcrunner.job.parallel import in_parallel
from hpcrunner.job.save import Saver, Upload
from hpcrunner.job.workspace import Workspace
from hpcrunner.request.location import Location
from hpcrunner.request.plan import PlannedArtifact, PlannedExperiment
from hpcrunner.request.record import SavedArtifact
from hpcrunner.storage.contract import ArtifactDenied, StoreUnreachable
from hpcrunner.storage.file import FileStore


class Uploads:
    """A store's front: remembers what was uploaded, fails as told, and how many at once."""

    def __init__(self, *errors: Exception) -> None:
        self.tags: list[str] = []
        self.most_at_once = 0
        self.under_way = threading.Event()
        self.let_go = threading.Event()  # while clear, no upload comes to its end
        self.let_go.set()
        self._errors = list(errors)
        self._running = 0
        self._lock = threading.Lock()

    def __call__(self, artifact: PlannedArtifact, path: Path) -> SavedArtifact:
        with self._lock:
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
        self.under_way.set()
        assert self.let_go.wait(150)
        with self._lock:
            self._running -= 1
        if self._errors:
            raise self._errors.pop(0)
        self.tags.append(artifact.tag)
        return SavedArtifact(artifact.tag, "a", 1, "0" * 64)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Saver]:
    def saver(upload: Upload, *tags: str, interval: float = 3600.0) -> Saver:
        workspace = Workspace(tmp_path, tmp_path, True)
        for tag in tags:
            (tmp_path / tag).mkdir()
        artifacts = [PlannedArtifact(tag, Location("file", "/x"), True, True) for tag in tags]
        events = Events(tmp_path / "events")
        return Saver(artifacts, workspace, interval, upload, events, lambda: None)

    return saver


def soon() -> float:
    return time.monotonic() + 150


def within(seconds: float) -> Callable[[], float]:
    until = time.monotonic() + seconds
    return lambda: until


def test_what_did_not_change_since_it_was_fetched_is_not_uploaded(
    tmp_path: Path, make: Callable[..., Saver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpcrunner.job.save._TICK", -60.0)  # a clock that ticks finely
    upload = Uploads()
    saver = make(upload, "modeldir", "tb")
    (tmp_path / "modeldir" / "w").write_text("x")
    (tmp_path / "tb" / "log").write_text("x")
    saver.start()
    (tmp_path / "tb" / "log").write_text("y")
    assert saver.finish(soon) == []
    assert upload.tags == ["tb"]
    assert saver.finish(soon) == []
    assert upload.tags == ["tb"]


def test_what_changed_but_a_moment_before_a_save_is_looked_at_again(
    tmp_path: Path, make: Callable[..., Saver]
) -> None:
    upload = Uploads()
    saver = make(upload, "tb")
    saver.start()
    (tmp_path / "tb" / "log").write_text("x")
    assert saver.finish(soon) == []
    assert saver.finish(soon) == []
    assert upload.tags == ["tb", "tb"]


def test_only_what_has_other_content_is_sent(
    tmp_path: Path, make: Callable[..., Saver], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    put = FileStore.put
    monkeypatch.setattr(
        FileStore, "put", lambda self, at, *rest: (sent.append(at.key), put(self, at, *rest))
    )
    workspace = Workspace(tmp_path, tmp_path, True)
    workspace.runner.mkdir()
    experiment = PlannedExperiment("i", "k", "n", 1, "train.py", (), ())
    events = Events(tmp_path / "told")
    real = uploader(experiment, workspace, {}, events)

    def upload(artifact: PlannedArtifact, folder: Path) -> SavedArtifact:
        place = Location("file", str(tmp_path / "store" / artifact.tag))
        return real(replace(artifact, location=place), folder)

    saver = make(upload, "tb")
    saver.start()
    log = tmp_path / "tb" / "log"
    for content, count in (("x", 1), ("x", 1), ("y", 2), ("y", 2), ("x", 3)):
        log.unlink(missing_ok=True)
        log.write_text(content)
        assert saver.finish(soon) == []
        assert len(sent) == count
    assert [saved.tag for saved in saver.saved] == ["tb"]
    assert '"event": "unchanged"' in (tmp_path / "events").read_text()


def test_an_empty_or_missing_artifact_never_replaces_a_stored_one(
    tmp_path: Path, make: Callable[..., Saver]
) -> None:
    upload = Uploads()
    saver = make(upload, "modeldir", "tb")
    (tmp_path / "modeldir" / "w").write_text("x")
    saver.start()
    (tmp_path / "modeldir" / "w").unlink()
    (tmp_path / "tb").rmdir()
    assert saver.finish(soon) == []
    assert upload.tags == []


def test_an_unreachable_store_is_asked_again_until_the_time_is_up(
    tmp_path: Path, make: Callable[..., Saver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpcrunner.job.save._FIRST_PAUSE", 0.01)
    upload = Uploads(StoreUnreachable("away"), StoreUnreachable("away"))
    saver = make(upload, "modeldir")
    (tmp_path / "modeldir" / "w").write_text("x")
    assert saver.finish(soon) == []
    assert upload.tags == ["modeldir"]


def test_a_store_that_stays_away_is_named_with_its_artifact(
    tmp_path: Path, make: Callable[..., Saver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpcrunner.job.save._FIRST_PAUSE", 1000.0)  # longer than the time there is
    upload = Uploads(*[StoreUnreachable("away", where="s3://b/k")] * 9)
    saver = make(upload, "modeldir")
    (tmp_path / "modeldir" / "w").write_text("x")
    (failure,) = saver.finish(soon)
    assert failure == "artifact modeldir was not saved: s3://b/k: away"


def test_a_refusal_is_not_tried_again_and_other_artifacts_are_saved(
    tmp_path: Path, make: Callable[..., Saver]
) -> None:
    upload = Uploads(ArtifactDenied("no"))
    saver = make(upload, "modeldir", "tb")
    for tag in ("modeldir", "tb"):
        (tmp_path / tag / "w").write_text("x")
    assert len(saver.finish(soon)) == 1
    assert len(upload.tags) == 1


def test_an_upload_that_hangs_does_not_keep_the_end_waiting(
    tmp_path: Path, make: Callable[..., Saver]
) -> None:
    never = threading.Event()

    def hang(*_: object) -> SavedArtifact:
        never.wait(150)
        raise ArtifactDenied("too late")

    saver = make(hang, "modeldir")
    (tmp_path / "modeldir" / "w").write_text("x")
    (failure,) = saver.finish(within(0.2))
    assert failure == "artifact modeldir was not saved: no time was left for it"
    never.set()


def test_one_artifact_is_never_saved_twice_at_once(
    tmp_path: Path, make: Callable[..., Saver]
) -> None:
    upload = Uploads()
    upload.let_go.clear()
    saver = make(upload, "modeldir", interval=0.05)
    saver.start()
    (tmp_path / "modeldir" / "w").write_text("1")
    assert upload.under_way.wait(150)  # the periodic save
    (tmp_path / "modeldir" / "w").write_text("22")
    failures: list[list[str]] = []
    end = threading.Thread(target=lambda: failures.append(saver.finish(soon)))
    end.start()
    assert saver._done.wait(150)
    upload.let_go.set()
    end.join()
    assert failures == [[]]
    assert upload.most_at_once == 1
    assert upload.tags == ["modeldir", "modeldir"]


def test_a_failed_periodic_save_is_tried_again_with_the_next(
    tmp_path: Path, make: Callable[..., Saver]
) -> None:
    upload = Uploads(StoreUnreachable("away"))
    saver = make(upload, "modeldir", interval=0.05)
    saver.start()
    (tmp_path / "modeldir" / "w").write_text("1")
    until = time.monotonic() + 150
    while not upload.tags and time.monotonic() < until:
        time.sleep(0.01)
    assert upload.tags == ["modeldir"]
    assert saver.finish(soon) == []


def test_before_a_payload_only_the_output_is_saved(
    tmp_path: Path, make: Callable[..., Saver]
) -> None:
    upload = Uploads()
    saver = make(upload, "modeldir", "output")
    for tag in ("modeldir", "output"):
        (tmp_path / tag / "w").write_text("torn")
    assert saver.finish(soon, frozenset({"output"})) == []
    assert upload.tags == ["output"]


def test_the_first_error_of_many_tasks_is_raised_at_once() -> None:
    ended = threading.Event()
    started: list[int] = []

    def slow() -> None:
        started.append(1)
        ended.wait(150)

    def fail() -> None:
        raise ArtifactDenied("no")

    with pytest.raises(ArtifactDenied):
        list(in_parallel([fail, slow, slow, slow], workers=2))
    ended.set()
    assert len(started) < 3
    assert sorted(in_parallel([lambda: 1, lambda: 2, lambda: 3], workers=2)) == [1, 2, 3]
