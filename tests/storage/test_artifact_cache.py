"""The cache of immutable artifacts, before servers that count what is asked of them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.job import artifactcache
from hpcrunner.job.artifactcache import CachedStore, make_room
from hpcrunner.job.artifacts import CacheSettings, cache_settings, fetch_all
from hpcrunner.job.events import Events
from hpcrunner.job.workspace import Workspace
from hpcrunner.request.location import Location
from hpcrunner.request.plan import NodeSetup, PlannedArtifact, PlannedExperiment
from hpcrunner.sharedlock import try_lock
from hpcrunner.storage.contract import ArtifactDenied, DiskBudgetExceeded
from hpcrunner.storage.http import HttpStore
from hpcrunner.storage.stores import looker_for

MB = 1 << 20
PATIENCE = 150.0


def archive(content: bytes = b"", size: int = MB) -> bytes:
    """A tar with one file ``f``, too large for the cache to pass over."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("f")
        info.size = size
        tar.addfile(info, io.BytesIO(content.ljust(size, b"x")))
    return buffer.getvalue()


class Jobs:
    """Jobs that fetch one artifact each, and what they told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache = root / "shared" / "cache"
        self.count = 0
        self.limit = 100 * MB

    @property
    def folder(self) -> Path:
        return self.cache / artifactcache.FOLDER

    @property
    def entries(self) -> list[str]:
        """What lies in the cache, locks apart."""
        return sorted(n for n in os.listdir(self.folder) if ".lock" not in n)

    def fetch(self, place: Location, unpack: bool = True, **more: Any) -> bytes:
        """Run a job on the artifact; returns the one file that it got."""
        self.count += 1
        home = self.root / f"job{self.count}"
        workspace = Workspace(home, home, False)
        workspace.tag("data").mkdir(parents=True)
        artifact = PlannedArtifact("data", place, more.pop("mutable", False), unpack)
        experiment = PlannedExperiment("i", "k", "n", 1, None, (), (artifact,), **more)
        settings = CacheSettings(self.cache, self.limit)
        fetch_all(experiment, workspace, Events(self.root / f"events{self.count}"), settings)
        (file,) = workspace.tag("data").iterdir()
        return file.read_bytes()

    def told(self, event: str) -> list[dict[str, Any]]:
        """The events of that name of the last job."""
        lines = (self.root / f"events{self.count}").read_text().splitlines()
        return [e for e in map(json.loads, lines) if e["event"] == event]

    @property
    def outcome(self) -> str | None:
        (fetched,) = self.told("fetched")
        outcome: str | None = fetched.get("cache")
        return outcome


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path)


def gets(server: Any) -> int:
    return sum(line.startswith("GET") for line, _ in server.seen)


def wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


# --- what it is for ---------------------------------------------------------------------------


def test_the_first_job_misses_and_the_second_hits(jobs: Jobs, faulty: Any) -> None:
    faulty.content = archive(b"model")
    first = jobs.fetch(faulty.http("/data.tar"))
    assert jobs.outcome == "miss"
    assert jobs.fetch(faulty.http("/data.tar")) == first
    assert jobs.outcome == "hit"
    assert gets(faulty) == 1
    assert first.startswith(b"model")
    assert jobs.told("fetched")[0]["sha256"] == hashlib.sha256(faulty.content).hexdigest()


def test_a_changed_object_is_fetched_again(jobs: Jobs, faulty: Any) -> None:
    faulty.content = archive(b"old")
    jobs.fetch(faulty.http())
    faulty.content, faulty.etag = archive(b"new"), '"v2"'
    assert jobs.fetch(faulty.http()).startswith(b"new")
    assert jobs.outcome == "miss"


def test_an_object_that_changes_between_look_and_fetch_is_not_kept(
    jobs: Jobs, faulty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty.content = archive(b"old")
    look = HttpStore.look

    def then_changed(self: HttpStore, location: Location) -> Any:
        seen = look(self, location)
        faulty.content, faulty.etag = archive(b"new"), '"v2"'
        return seen

    monkeypatch.setattr(HttpStore, "look", then_changed)
    assert jobs.fetch(faulty.http()).startswith(b"new")
    assert jobs.entries == []


def test_what_the_store_refuses_is_not_had_from_the_cache(jobs: Jobs, faulty: Any) -> None:
    faulty.content = archive()
    jobs.fetch(faulty.http())
    faulty.fail(403, 403)
    with pytest.raises(ArtifactDenied):
        jobs.fetch(faulty.http())


def test_mutable_small_and_unversioned_objects_are_not_kept(
    jobs: Jobs, faulty: Any, tmp_path: Path
) -> None:
    faulty.content = archive()
    jobs.fetch(faulty.http(), mutable=True)
    faulty.etag = 'W/"weak"'
    jobs.fetch(faulty.http())
    faulty.etag, faulty.content = '"v1"', archive(size=1000)
    jobs.fetch(faulty.http())
    (tmp_path / "local.tar").write_bytes(archive())
    jobs.fetch(Location("file", str(tmp_path / "local.tar")))
    assert jobs.outcome is None
    assert not jobs.folder.exists()


def test_it_holds_for_s3_and_google_and_plain_objects(
    jobs: Jobs, rclone: Any, google: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("google.cloud.storage", reason="pip install 'hpcrunner[gcs]'")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", google)
    data = os.urandom(MB)
    for place in (rclone.at("raw/data.bin"), Location("gs", "data.bin", bucket="artifacts")):
        store = looker_for(place)
        assert store is not None
        store.put(place, io.BytesIO(data), len(data))
        assert jobs.fetch(place, unpack=False) == data
        assert jobs.outcome == "miss"
        assert jobs.fetch(place, unpack=False) == data
        assert jobs.outcome == "hit"


# --- the promise of a key ---------------------------------------------------------------------


def test_a_blob_is_known_by_its_hash_wherever_it_lies(jobs: Jobs, faulty: Any) -> None:
    faulty.content = archive(b"blob")
    digest = hashlib.sha256(faulty.content).hexdigest()
    jobs.fetch(faulty.http(f"/one/blobstore/{digest}.tar"))
    faulty.etag = '"another"'
    jobs.fetch(faulty.http(f"/two/blobstore/{digest}.tar.gz"))
    assert jobs.outcome == "hit"
    assert jobs.entries == [f"b-{digest}"]


def test_a_blob_that_is_not_what_its_key_promises_is_taken_told_and_not_kept(
    jobs: Jobs, faulty: Any
) -> None:
    faulty.content = archive(b"other")
    place = faulty.http(f"/blobstore/{'0' * 64}.tar")
    assert jobs.fetch(place).startswith(b"other")
    assert jobs.told("mismatch")
    assert jobs.entries == []


# --- many at once -----------------------------------------------------------------------------

_JOB = """
import sys
from pathlib import Path
from hpcrunner.job.artifactcache import CachedStore
from hpcrunner.request.location import Location
from hpcrunner.storage.http import HttpStore
from hpcrunner.storage.transfer import download

cache, url, out = sys.argv[1:]
store = CachedStore(HttpStore(), Path(cache), 1 << 30)
download(Location("http", "data.tar", endpoint=url), Path(out), True, store=store)
print(store.outcome)
"""


def start_job(jobs: Jobs, server: Any, name: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-I", "-c", _JOB, str(jobs.cache), server.url + "/data.tar"]
    return subprocess.Popen([*words, str(jobs.root / name)], stdout=subprocess.PIPE, text=True)


def test_of_many_processes_that_ask_at_once_one_downloads(jobs: Jobs, faulty: Any) -> None:
    faulty.content = archive()
    faulty.gate.clear()
    started = [start_job(jobs, faulty, f"p{n}") for n in range(6)]
    wait_until(lambda: len(faulty.seen) == 7)  # all have asked, one has begun
    faulty.gate.set()
    outcomes = sorted(process.communicate(timeout=PATIENCE)[0].strip() for process in started)
    assert outcomes == ["hit"] * 5 + ["miss"]
    assert gets(faulty) == 1
    for n in range(6):
        assert (jobs.root / f"p{n}" / "f").stat().st_size == MB


def test_a_download_that_dies_is_taken_over(jobs: Jobs, faulty: Any) -> None:
    faulty.content = archive()
    faulty.gate.clear()
    first = start_job(jobs, faulty, "dies")
    wait_until(lambda: gets(faulty) == 1 and jobs.folder.exists() and jobs.entries)
    second = start_job(jobs, faulty, "waits")
    wait_until(lambda: len(faulty.seen) == 3)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=PATIENCE)
    faulty.gate.set()
    assert second.communicate(timeout=PATIENCE)[0].strip() == "miss"
    assert (jobs.root / "waits" / "f").stat().st_size == MB


def test_nobody_waits_for_a_download_that_does_not_grow(
    jobs: Jobs, faulty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifactcache, "_QUIET", 0.2)
    faulty.content = archive()
    jobs.fetch(faulty.http())
    (name,) = jobs.entries
    (jobs.folder / name).unlink()
    with try_lock(jobs.folder / f"{name}.lock") as taken:
        assert taken
        jobs.fetch(faulty.http())
    assert jobs.outcome is None
    assert gets(faulty) == 2


# --- room -------------------------------------------------------------------------------------


def test_the_least_recently_used_goes_when_there_is_too_much(jobs: Jobs, faulty: Any) -> None:
    faulty.content = archive()
    jobs.limit = 10 * (len(faulty.content) + artifactcache.HEADER)
    for n in range(10):
        jobs.fetch(faulty.http(f"/{n}"))
        for entry in jobs.folder.iterdir():  # as if an hour went by
            status = entry.stat()
            os.utime(entry, (status.st_atime - 3600, status.st_mtime - 3600))
    jobs.fetch(faulty.http("/0"))
    assert jobs.outcome == "hit"
    jobs.fetch(faulty.http("/new"))
    assert len(jobs.entries) == 10
    before = gets(faulty)
    jobs.fetch(faulty.http("/0"))
    assert gets(faulty) == before
    jobs.fetch(faulty.http("/1"))
    assert jobs.outcome == "miss"


def test_what_is_larger_than_the_cache_passes_it_by(jobs: Jobs, faulty: Any) -> None:
    faulty.content = archive()
    jobs.limit = MB
    jobs.fetch(faulty.http())
    assert jobs.outcome is None


def test_what_died_half_way_goes_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    name = f"e-{'0' * 64}"
    for old in (f"{name}.{'a' * 16}.part", f"{name}.lock", "thesis.tex"):
        (tmp_path / old).write_bytes(b"x" * 1000)
        os.utime(tmp_path / old, (1, 1))
    (tmp_path / f"{name}.{'b' * 16}.part").touch()
    assert make_room(tmp_path, 10, 0, time.time()) == []
    assert sorted(os.listdir(tmp_path)) == [f"{name}.{'b' * 16}.part", "thesis.tex"]


# --- harm -------------------------------------------------------------------------------------


@pytest.mark.parametrize("unpack", [True, False])
@pytest.mark.parametrize("at", [artifactcache.HEADER + 3, -20_000])
def test_damage_is_noticed_and_the_store_is_asked(
    jobs: Jobs, faulty: Any, unpack: bool, at: int
) -> None:
    faulty.content = archive(b"good")
    good = jobs.fetch(faulty.http(), unpack)
    (name,) = jobs.entries
    data = bytearray((jobs.folder / name).read_bytes())
    data[at] ^= 0xFF
    (jobs.folder / name).write_bytes(data)
    assert jobs.fetch(faulty.http(), unpack) == good
    assert jobs.told("cache_failed")
    assert jobs.entries == []
    jobs.fetch(faulty.http(), unpack)
    assert jobs.fetch(faulty.http(), unpack) == good
    assert jobs.outcome == "hit"


@pytest.mark.parametrize("content", [b"", b"hpcrunner artifact 1 x", b"\0" * 5000])
def test_an_entry_that_is_none_is_replaced(jobs: Jobs, faulty: Any, content: bytes) -> None:
    faulty.content = archive(b"good")
    jobs.fetch(faulty.http())
    (name,) = jobs.entries
    (jobs.folder / name).write_bytes(content)
    assert jobs.fetch(faulty.http()).startswith(b"good")
    assert jobs.outcome == "miss"
    jobs.fetch(faulty.http())
    assert jobs.outcome == "hit"


def test_a_refusal_that_is_no_damage_stays_one_and_keeps_the_entry(jobs: Jobs, faulty: Any) -> None:
    faulty.content = archive()
    jobs.fetch(faulty.http())
    with pytest.raises(DiskBudgetExceeded):
        jobs.fetch(faulty.http(), disk_budget=1000)
    assert len(jobs.entries) == 1


def test_a_cache_that_cannot_be_made_fails_no_job(jobs: Jobs, faulty: Any) -> None:
    faulty.content = archive(b"good")
    jobs.cache.parent.mkdir()
    jobs.cache.write_text("a file in the way")
    assert jobs.fetch(faulty.http()).startswith(b"good")
    assert jobs.outcome is None


def test_a_cache_that_is_full_fails_no_job_and_keeps_nothing(
    jobs: Jobs, faulty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    faulty.content = archive(b"good")
    monkeypatch.setattr("hpcrunner.job.artifactcache.os.pwrite", full)
    assert jobs.fetch(faulty.http()).startswith(b"good")
    assert jobs.entries == []


def test_it_is_private_and_no_link_is_followed_into_another_folder(
    jobs: Jobs, faulty: Any, tmp_path: Path
) -> None:
    faulty.content = archive()
    (tmp_path / "elsewhere").mkdir()
    jobs.cache.mkdir(parents=True)
    jobs.folder.symlink_to(tmp_path / "elsewhere")
    jobs.fetch(faulty.http())
    assert list((tmp_path / "elsewhere").iterdir()) == []
    jobs.folder.unlink()
    jobs.fetch(faulty.http())
    assert stat.S_IMODE(jobs.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((jobs.folder / jobs.entries[0]).stat().st_mode) == 0o600


def test_a_bomb_without_a_budget_does_not_take_the_whole_disk(
    jobs: Jobs, faulty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = MB

    monkeypatch.setattr("hpcrunner.job.artifacts.disk_usage", lambda path: Usage)
    faulty.content = archive()
    with pytest.raises(DiskBudgetExceeded):
        jobs.fetch(faulty.http())


def test_a_site_says_where_it_is_and_whether_there_is_one(tmp_path: Path) -> None:
    events = Events(tmp_path / "events")
    environ = {"SHARED": "/shared"}
    setup = NodeSetup("/tmp", "/home/me/cache", artifact_cache_size=5)
    assert cache_settings(setup, environ, events) == CacheSettings(Path("/home/me/cache"), 5)
    setup = NodeSetup("/tmp", "/c", artifact_cache="$SHARED/x", artifact_cache_size=5)
    assert cache_settings(setup, environ, events) == CacheSettings(Path("/shared/x"), 5)
    assert cache_settings(setup, {}, events) is None
    assert cache_settings(NodeSetup("/tmp", "/c"), environ, events) is None


def test_a_cached_store_still_puts(faulty: Any, tmp_path: Path) -> None:
    store = looker_for(faulty.s3())
    assert store is not None
    CachedStore(store, tmp_path, MB).put(faulty.s3(), io.BytesIO(b"x"), 1)
    assert faulty.bodies == [b"x"]
