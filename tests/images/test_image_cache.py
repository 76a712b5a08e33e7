"""The image cache keeps within its bounds, and never takes an image from under a job."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.images import bounds
from hpcrunner.images.bounds import KEPT, make_room
from hpcrunner.images.cache import ImageCache
from hpcrunner.images.pull import _failure
from hpcrunner.request.image import PlannedImage
from hpcrunner.request.location import Location
from hpcrunner.sharedlock import try_lock
from hpcrunner.storage.contract import StorageError

Cache = Any  # of this folder's conftest
Make = Callable[..., Path]
Put = Callable[[str, float], Path]
LONG_AGO = KEPT + 60.0


@pytest.fixture
def put(cache: Cache, image_file: Make) -> Put:
    """``put("a", 100.0)``: a megabyte in the cache that was last used so many seconds ago."""

    def make(name: str, ago: float) -> Path:
        file = image_file(f"{name}.sif", name.encode() + bytes(1 << 20))
        image = cache.get(
            PlannedImage(f"s3://store.example/b/{name}.sif", Location("file", str(file))),
            mark=lambda mark: mark.touch(),
        )
        os.utime(image.with_suffix(".used"), (time.time() - ago,) * 2)
        return Path(image)

    return make


def sweep(cache: Cache, limit: int) -> list[str]:
    return make_room(cache.images, limit, time.time())


def test_what_was_not_used_for_longest_goes(cache: Cache, put: Put) -> None:
    oldest, old, young = put("a", 3 * LONG_AGO), put("b", 2 * LONG_AGO), put("c", LONG_AGO)
    assert sweep(cache, 5 << 20) == []
    assert sweep(cache, 5 << 19) == [oldest.name]
    assert [p.exists() for p in (oldest, old, young)] == [False, True, True]
    assert not oldest.with_suffix(".used").exists()


def test_a_pull_makes_room_for_itself(cache: Cache, put: Put) -> None:
    old = put("a", LONG_AGO)
    cache.change(size=3 << 19)
    new = put("b", 0)
    assert (old.exists(), new.exists()) == (False, True)


def test_an_image_of_the_last_hours_stays_whatever_the_bound(cache: Cache, put: Put) -> None:
    image = put("a", KEPT / 2)
    assert sweep(cache, 0) == []
    assert image.exists()


def test_an_image_that_a_job_uses_stays_however_old_its_mark(cache: Cache, put: Put) -> None:
    image = put("a", 0)
    script = (
        "import sys, pathlib; from hpcrunner.usemark import mark_used;"
        "mark_used(pathlib.Path(sys.argv[1])); print('marked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(image.with_suffix(".used"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == b"marked\n"
        os.utime(image.with_suffix(".used"), (0, 0))  # as of a job that was stopped for years
        assert sweep(cache, 0) == []
        assert image.exists()
        job.communicate()
    assert sweep(cache, 0) == [image.name]


def test_a_job_that_starts_while_its_image_is_taken_away_keeps_it(
    cache: Cache, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = put("a", LONG_AGO)
    real = bounds.marked_at

    def marked_at(mark: Path, missing: float) -> float:
        if not image.exists():
            os.utime(mark)  # the job's, as late as it can be
        return real(mark, missing)

    monkeypatch.setattr(bounds, "marked_at", marked_at)
    assert sweep(cache, 0) == []
    assert image.exists()


def test_an_image_that_was_hidden_by_one_that_died_goes_next_time(cache: Cache, put: Put) -> None:
    image = put("a", LONG_AGO)
    image.rename(f"{image}.gone")
    assert sweep(cache, 0) == [image.name]
    assert cache.files() == []


def test_an_image_that_went_is_pulled_again(cache: Cache, put: Put) -> None:
    image = put("a", LONG_AGO)
    sweep(cache, 0)
    assert put("a", 0) == image
    assert image.exists()


def test_notes_of_what_is_gone_go_after_a_week_and_strangers_stay(cache: Cache, put: Put) -> None:
    image = put("a", LONG_AGO)
    (cache.images / "mine.txt").touch()
    sweep(cache, 0)
    kept = put("b", LONG_AGO)
    for path in cache.images.iterdir():
        os.utime(path, (time.time() - 8 * 86400.0,) * 2)
    sweep(cache, 1 << 30)
    left = {path.suffix for path in cache.images.iterdir() if path.is_file()}
    assert (image.exists(), kept.exists()) == (False, True)
    assert left == {".sif", ".used", ".json", ".txt"}
    assert len(list(cache.images.glob("*.json"))) == 1


def test_a_failure_is_not_remembered_for_long(
    cache: Cache, tmp_path: Path, image_file: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hpcrunner.images import cache as module

    calls = []

    def pull(scratch: Path) -> Path:
        calls.append(scratch)
        if len(calls) == 1:
            raise StorageError("once")
        (scratch / "image").write_bytes(image_file().read_bytes())
        return scratch / "image"

    images = module.ImageCache(cache.images, 1 << 30, tell=lambda *_: None)
    for _ in range(3):
        with pytest.raises(StorageError, match="once"):
            images.get("0" * 64, "docker://x", pull)
    assert len(calls) == 1
    monkeypatch.setattr(module, "_REMEMBERED_IF_PASSING", 0.0)
    assert images.get("0" * 64, "docker://x", pull).exists()
    assert not list(cache.images.glob("*.failed"))


def test_damaged_notes_are_as_good_as_none(cache: Cache, put: Put) -> None:
    image = put("a", 0)
    (note,) = cache.images.glob("*.json")
    for damage in ("", "[]", '{"reference": "x", "image": "../../etc/passwd", "pulled": 1}'):
        note.write_text(damage)
        assert put("a", 0) == image


def test_the_same_image_pulled_anew_is_not_put_in_place_of_what_jobs_have_open(
    cache: Cache, image_file: Make
) -> None:
    file = image_file()
    image = PlannedImage("s3://store.example/b/a.sif", Location("file", str(file)))
    before = cache.get(image).stat()
    after = cache.get(image, anew=True).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert len(cache.files()) == 1


class _Enough(Exception):
    pass


def test_who_waits_for_an_image_that_went_holds_no_mark_of_it(cache: Cache, put: Put) -> None:
    image = put("a", LONG_AGO)
    sweep(cache, 0)
    (note,) = cache.images.glob("*.json")
    marks: list[Path] = []
    looks: list[float] = []

    def pause(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 5:
            raise _Enough

    images = ImageCache(cache.images, 1 << 30, mark=marks.append, tell=lambda *_: None, pause=pause)
    with try_lock(note.with_suffix(".1.lock")) as taken:
        assert taken
        with pytest.raises(_Enough):
            images.get(note.stem, "s3://store.example/b/a.sif", lambda scratch: scratch)
    assert marks == []
    assert not image.with_suffix(".used").exists()


def test_a_pull_that_stands_still_is_not_waited_for_for_ever(
    cache: Cache, image_file: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its job was suspended: it holds its lock, and nothing comes."""
    from hpcrunner.images import cache as module

    def pull(scratch: Path) -> Path:
        (scratch / "image").write_bytes(image_file().read_bytes())
        return scratch / "image"

    images = module.ImageCache(cache.images, 1 << 30, tell=cache._tell, pause=lambda _: None)
    key = "0" * 64
    stopped = cache.images / "pulling" / f"elsewhere.1.{key}-0"
    stopped.mkdir(parents=True)
    (stopped / "part").write_bytes(bytes(1000))
    with module.try_lock(cache.images / f"{key}.1.lock") as taken:
        assert taken
        monkeypatch.setattr(module, "_LOOK_FOR_GROWTH", 0.0)
        monkeypatch.setattr(module, "_PATIENCE", 0.2)
        assert images.get(key, "docker://x", pull).exists()
    assert cache.events() == ["waiting", "pulling", "pulled"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("FATAL: ... manifests/1: MANIFEST_UNKNOWN: manifest unknown", "ARTIFACT_NOT_FOUND"),
        ("FATAL: While pulling shub image: ... 404 Not Found", "ARTIFACT_NOT_FOUND"),
        ("FATAL: ... UNAUTHORIZED: authentication required", "ARTIFACT_DENIED"),
        ("FATAL: ... requested access to the resource is denied", "ARTIFACT_DENIED"),
        ("FATAL: ... ORAS SIF image should have a single layer, found 2", "ARTIFACT_REFUSED"),
        ("FATAL: ... no image found in manifest list for architecture x", "ARTIFACT_REFUSED"),
        ("FATAL: ... while unpacking layer: read next entry: unexpected EOF", "ARTIFACT_REFUSED"),
        ("FATAL: ... no default remote with library client in use", "ARTIFACT_NOT_FOUND"),
        ("FATAL: ... TOOMANYREQUESTS: You have reached your pull rate limit", "STORE_UNREACHABLE"),
        ("FATAL: ... dial tcp: lookup r.example: no such host", "STORE_UNREACHABLE"),
        ("FATAL: ... unexpected status 503 Service Unavailable", "STORE_UNREACHABLE"),
        ("FATAL: ... net/http: TLS handshake timeout", "STORE_UNREACHABLE"),
        ("FATAL: ... write /x: no space left on device", "NO_ROOM"),
        ('FATAL: ... exec: "mksquashfs": executable file not found in $PATH', "CONTAINER_FAILED"),
        ("", "STORE_UNREACHABLE"),
    ],
)
def test_what_the_program_says_of_a_failure_is_its_reason(said: str, reason: str) -> None:
    proc = Path("/proc")  # of no type that is one machine's own
    failure = _failure("docker://docker.io/library/x:1", 255, f"INFO: begins\n{said}\n", proc)
    assert failure.reason.value == reason
    assert failure.line().startswith("docker://docker.io/library/x:1: ")
    assert "\n" not in failure.line()


def test_signed_addresses_do_not_show_in_a_failure() -> None:
    said = 'FATAL: ... Get "https://cdn.example/blob?Signature=s3cr3t&Expires=1": EOF'
    assert "s3cr3t" not in _failure("docker://x", 255, said, Path("/")).line()
