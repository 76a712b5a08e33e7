"""The cache ages out on the node, and never under a job that runs or starts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcrunner import usemark
from hpcrunner.job import cache
from hpcrunner.job.cache import start_sweep, sweep
from hpcrunner.job.environment import Cached
from hpcrunner.job.events import Events

DAY = 86400.0


def build(target: Path) -> None:
    (target / "bin").mkdir(parents=True)
    (target / "bin" / "python").touch()


@pytest.fixture
def environment(tmp_path: Path) -> Callable[[str, float], Path]:
    """An environment that was last used so many seconds ago, by a job that has ended."""

    def make(key: str, ago: float) -> Path:
        folder = tmp_path / "environments" / key
        folder.mkdir(parents=True)
        Cached(folder).get(build, Events(tmp_path / "events"))
        for name in (cache.USED, "current"):
            (folder / name).touch()
            os.utime(folder / name, (time.time() - ago,) * 2)
        return folder

    return make


def folders(environment: Path) -> list[Path]:
    return [entry for entry in environment.iterdir() if entry.is_dir()]


def test_what_nobody_used_for_long_goes_and_the_rest_stays(
    tmp_path: Path, environment: Callable[[str, float], Path]
) -> None:
    old, young = environment("old", 31 * DAY), environment("young", 29 * DAY)
    assert sweep(tmp_path, 30 * DAY) == ["old"]
    assert folders(old) == []
    assert not (old / "current").exists()
    assert Cached(young)._ready() is not None
    assert sweep(tmp_path, 30 * DAY) == []
    events = Events(tmp_path / "events")
    assert (Cached(old).get(build, events) / "bin" / "python").exists(), "and is built again"


def test_an_environment_from_before_there_were_marks_goes_by_its_age(
    tmp_path: Path, environment: Callable[[str, float], Path]
) -> None:
    for key, ago in (("old", 31 * DAY), ("young", 29 * DAY)):
        (environment(key, ago) / cache.USED).unlink()
    assert sweep(tmp_path, 30 * DAY) == ["old"]


def test_an_environment_that_a_running_job_uses_stays_however_old_its_mark(
    tmp_path: Path, environment: Callable[[str, float], Path]
) -> None:
    folder = environment("key", 0)
    job = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, pathlib; from hpcrunner.usemark import mark_used;"
            "mark_used(pathlib.Path(sys.argv[1])); print('marked', flush=True); sys.stdin.read()",
            str(folder / cache.USED),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert job.stdout is not None
    assert job.stdout.readline() == b"marked\n"
    os.utime(folder / cache.USED, (0, 0))  # as of a job that was stopped for years
    assert sweep(tmp_path, DAY) == []
    assert Cached(folder)._ready() is not None
    job.communicate()
    assert sweep(tmp_path, DAY) == ["key"]


def test_a_job_that_starts_at_that_instant_keeps_its_environment(
    tmp_path: Path, environment: Callable[[str, float], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has seen the environment as complete just before that was taken out of sight."""
    folder = environment("key", 31 * DAY)
    looks: list[Path] = []

    def written_at(path: Path, missing: float) -> float:
        if not (path.parent / "current").exists():
            os.utime(path)  # the job's mark, as late as it can be
            looks.append(path)
        return real(path, missing)

    real = cache.marked_at
    monkeypatch.setattr(cache, "marked_at", written_at)
    ready = Cached(folder)._ready()
    assert sweep(tmp_path, 30 * DAY) == []
    assert looks == [folder / cache.USED]
    assert Cached(folder)._ready() == ready
    assert ready is not None
    assert (ready / "bin" / "python").exists()


def test_an_environment_that_is_being_built_is_left_alone(
    tmp_path: Path, environment: Callable[[str, float], Path]
) -> None:
    folder = environment("key", 31 * DAY)
    with cache.try_lock(folder / "lock") as taken:
        assert taken
        assert sweep(tmp_path, 30 * DAY) == []
    assert len(folders(folder)) == 1


@pytest.mark.parametrize("dies_at", ["rename", "remove_tree"])
def test_a_sweep_that_dies_half_way_is_gone_on_with(
    tmp_path: Path,
    environment: Callable[[str, float], Path],
    dies_at: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Died(BaseException):
        pass

    def die(*_: object) -> None:
        raise Died

    folder = environment("key", 31 * DAY)
    with monkeypatch.context() as patch:
        if dies_at == "rename":
            patch.setattr(cache, "in_use", die)
        else:
            patch.setattr(cache, "remove_tree", die)
        with pytest.raises(Died):
            sweep(tmp_path, 30 * DAY)
    sweep(tmp_path, 30 * DAY)
    assert folders(folder) == []


def test_links_in_an_environment_are_not_followed(
    tmp_path: Path, environment: Callable[[str, float], Path]
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    folder = environment("key", 31 * DAY)
    (folders(folder)[0] / "lib64").symlink_to(precious)
    (tmp_path / "environments" / "linked").symlink_to(precious)
    assert sweep(tmp_path, 30 * DAY) == ["key"]
    assert (precious / "file").exists()


def test_downloads_of_pip_go_when_they_are_old(tmp_path: Path) -> None:
    (tmp_path / "environments").mkdir()
    (tmp_path / "pip" / "http-v2").mkdir(parents=True)
    for name, ago in (("old", 31 * DAY), ("young", 29 * DAY)):
        file = tmp_path / "pip" / "http-v2" / name
        file.touch()
        os.utime(file, (time.time() - ago,) * 2)
    sweep(tmp_path, 30 * DAY)
    assert [entry.name for entry in (tmp_path / "pip" / "http-v2").iterdir()] == ["young"]


def test_one_job_a_day_looks_and_none_where_the_site_keeps_all(
    tmp_path: Path,
    environment: Callable[[str, float], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment("key", 31 * DAY)
    swept = []
    monkeypatch.setattr(cache, "sweep", lambda *words: swept.append(words))
    cache._sweep_daily(tmp_path, 30 * DAY)
    cache._sweep_daily(tmp_path, 30 * DAY)
    assert swept == [(tmp_path, 30 * DAY)]
    os.utime(tmp_path / "environments" / "swept", (time.time() - 2 * DAY,) * 2)
    cache._sweep_daily(tmp_path, 30 * DAY)
    assert len(swept) == 2
    started = []
    monkeypatch.setattr(cache.threading, "Thread", lambda **words: started.append(words))
    start_sweep(tmp_path, None)
    assert started == []


def test_a_cache_that_is_not_there_is_no_fault(tmp_path: Path) -> None:
    cache._sweep_daily(tmp_path / "none", DAY)


def test_marks_are_made_before_the_environment_is_looked_for(
    tmp_path: Path, environment: Callable[[str, float], Path]
) -> None:
    folder = environment("key", 31 * DAY)
    usemark.mark_used(folder / cache.USED)
    assert time.time() - (folder / cache.USED).stat().st_mtime < DAY
    assert sweep(tmp_path, 30 * DAY) == []
