"""The payload's Python environment: cached by content, and built once."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpcrunner import sharedlock as lock
from hpcrunner.interpreter import probe
from hpcrunner.job.build import build, builder_environment
from hpcrunner.job.environment import Cached, studioml_of
from hpcrunner.job.events import Events
from hpcrunner.request.reasons import Reason
from hpcrunner.request.requirements import EnvironmentFailed, groom, installer_settings
from hpcrunner.sharedlock import folder_lock, try_lock

if TYPE_CHECKING:
    from conftest import Node


def fake_build(log: Path, seconds: float = 0.2) -> Callable[[Path], None]:
    """A build that takes its time and leaves what marks an environment."""

    def run(target: Path) -> None:
        with log.open("a") as file:
            file.write("built\n")
        time.sleep(seconds)
        (target / "bin").mkdir(parents=True)
        (target / "bin" / "python").touch()

    return run


def ask_many(count: int, ask: Callable[[], object]) -> list[object]:
    """The answers, or errors, of many threads that ask at once."""
    answers: list[object] = []
    all_there = threading.Barrier(count)

    def run() -> None:
        all_there.wait(60)
        try:
            answers.append(ask())
        except EnvironmentFailed as error:
            answers.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


@pytest.fixture
def events(tmp_path: Path) -> Events:
    return Events(tmp_path / "events")


def test_many_who_ask_at_once_get_one_build(tmp_path: Path, events: Events) -> None:
    (tmp_path / "key").mkdir()
    log = tmp_path / "log"
    cached = Cached(tmp_path / "key")
    answers = ask_many(6, lambda: cached.get(fake_build(log), events))
    assert len(answers) == 6
    assert len(set(answers)) == 1
    assert log.read_text() == "built\n"


def test_one_failure_serves_all_who_waited_and_nobody_later(tmp_path: Path, events: Events) -> None:
    (tmp_path / "key").mkdir()
    log = tmp_path / "log"
    cached = Cached(tmp_path / "key")

    def fail(target: Path) -> None:
        fake_build(log, 1.0)(target)  # until all the others wait for it
        raise EnvironmentFailed("no such version")

    answers = ask_many(4, lambda: cached.get(fail, events))
    assert all("no such version" in str(answer) for answer in answers)
    assert log.read_text() == "built\n"
    assert not [entry for entry in (tmp_path / "key").iterdir() if entry.is_dir()]
    assert cached.get(fake_build(log), events).is_dir()


def test_an_incomplete_environment_is_never_used_and_a_dead_builders_is_removed(
    tmp_path: Path, events: Events
) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    wreck = tmp_path / f"{os.uname().nodename}.{dead.pid}.ab"
    fake_build(tmp_path / "log")(wreck)
    built = Cached(tmp_path).get(fake_build(tmp_path / "log"), events)
    assert built != wreck
    assert not wreck.exists()
    assert Cached(tmp_path).get(fake_build(tmp_path / "log"), events) == built


def test_an_environment_whose_interpreter_went_away_is_built_again(
    tmp_path: Path, events: Events
) -> None:
    first = Cached(tmp_path).get(fake_build(tmp_path / "log"), events)
    (first / "bin" / "python").unlink()
    dead = subprocess.Popen(["true"])
    dead.wait()
    first = first.rename(first.with_name(f"{os.uname().nodename}.{dead.pid}.ab"))
    (tmp_path / "current").write_text(first.name)
    second = Cached(tmp_path).get(fake_build(tmp_path / "log"), events)
    assert (second / "bin" / "python").exists()
    assert first.is_dir(), "on other nodes the interpreter may be there, and jobs that use it"


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    for take in (try_lock, folder_lock):
        path = tmp_path / take.__name__
        with take(path) as first, take(path) as second:
            assert (first, second) == (True, False)
        with take(path) as again:
            assert again


def test_a_folder_lock_that_nobody_touches_any_more_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.mkdir()
    old = time.time() - lock.STALE_AFTER - 60
    os.utime(path, (old, old))
    with folder_lock(path) as taken:
        assert taken
    assert list(tmp_path.iterdir()) == []


def test_where_flock_is_refused_a_folder_is_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with try_lock(tmp_path / "lock") as first, try_lock(tmp_path / "lock") as second:
        assert (first, second) == (True, False)


def test_builders_get_the_nodes_settings_and_the_requests_index() -> None:
    job = {"PIP_INDEX_URL": "https://node", "https_proxy": "p", "PYTHONPATH": "/m", "PATH": "/b"}
    config = [("PIP_INDEX_URL", "https://mine"), ("PYTHONPATH", "/x"), ("LD_PRELOAD", "/y")]
    settings = installer_settings(config)
    assert settings == (("PIP_INDEX_URL", "https://mine"),)
    result = builder_environment(job, settings, Path("/c"))
    assert result["PIP_INDEX_URL"] == "https://mine"
    assert result["https_proxy"] == "p"
    assert result["UV_CACHE_DIR"] == "/c/uv"
    assert "PYTHONPATH" not in result
    assert "LD_PRELOAD" not in result


@pytest.fixture(params=["uv", "pip"])
def tool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "pip":
        monkeypatch.setattr("hpcrunner.job.build.uv_here", lambda _: None)


BACKEND = """
import pathlib, zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "studioml-0.0.99-py3-none-any.whl"
    info = "studioml-0.0.99.dist-info/"
    with zipfile.ZipFile(pathlib.Path(folder, name), "w") as archive:
        archive.writestr("studioml.py", "version = '0.0.99'\\n")
        archive.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: studioml\\nVersion: 0.0.99\\n")
        archive.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr(info + "RECORD", "")
    return name
"""  # noqa: E501


def pack_source(path: Path) -> None:
    """A source archive that needs no other package to be built (PEP 517)."""
    system = "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
    project = "[project]\nname = 'studioml'\nversion = '0.0.99'\n"
    info = "Metadata-Version: 2.1\nName: studioml\nVersion: 0.0.99\n"
    files = {"pyproject.toml": system + project, "backend.py": BACKEND, "PKG-INFO": info}
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"studioml-0.0.99/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))


def versions(venv: Path) -> list[str]:
    code = "import alpha, beta; print(alpha.version, beta.version)"
    command = [str(venv / "bin" / "python"), "-I", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.usefixtures("tool")
def test_a_freeze_that_contradicts_itself_is_installed_as_it_was(
    tmp_path: Path, offline: dict[str, str]
) -> None:
    python = probe(sys.executable, os.environ)
    assert python is not None
    contradictory = groom(["alpha==1.0", "beta==2.0"])
    (tmp_path / "r").mkdir()
    resolved = build(tmp_path / "v", python, [contradictory], offline, tmp_path / "r" / "log")
    assert not resolved
    assert versions(tmp_path / "v") == ["1.0", "2.0"]


@pytest.mark.usefixtures("tool")
def test_the_extra_packages_of_the_config_come_later_and_win(
    tmp_path: Path, offline: dict[str, str]
) -> None:
    python = probe(sys.executable, os.environ)
    assert python is not None
    (tmp_path / "r").mkdir()
    phases = [groom(["alpha==1.0"]), groom(["beta==2.0"])]
    assert build(tmp_path / "v", python, phases, offline, tmp_path / "r" / "log")
    assert versions(tmp_path / "v") == ["1.0", "2.0"]


@pytest.mark.usefixtures("tool")
def test_what_cannot_be_installed_fails_with_the_installers_words(
    tmp_path: Path, offline: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpcrunner.job.build.RETRY_PAUSE", 0)
    python = probe(sys.executable, os.environ)
    assert python is not None
    (tmp_path / "r").mkdir()
    with pytest.raises(EnvironmentFailed, match="gamma"):
        build(tmp_path / "v", python, [groom(["gamma>=3"])], offline, tmp_path / "r" / "log")
    assert (tmp_path / "r" / "log").stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("tool")
def test_the_client_library_that_the_code_brings_is_built_and_installed(
    tmp_path: Path, offline: dict[str, str]
) -> None:
    code = tmp_path / "with 'blanks'"
    (code / "dist").mkdir(parents=True)
    pack_source(code / "dist" / "studioml-0.0.99.tar.gz")
    python = probe(sys.executable, os.environ)
    assert python is not None
    (tmp_path / "r").mkdir()
    phases = [groom(["beta==1.0", "studioml==0.0.49"], studioml=studioml_of(code))]
    assert build(tmp_path / "v", python, phases, offline, tmp_path / "r" / "log")
    code_words = [str(tmp_path / "v" / "bin" / "python"), "-I", "-c"]
    words = [*code_words, "import beta, studioml; print(studioml.version)"]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "0.0.99\n"


def test_six_experiments_of_one_environment_build_it_once_from_the_real_index(node: Node) -> None:
    script = "import six, sys; print(six.__version__, sys.prefix)"
    experiment = node.script(script, python_packages=("six==1.17.0", "pkg-resources==0.0.0"))
    artifacts = (experiment.artifacts[0], node.artifact("_metadata"))
    six = [replace(experiment, name=f"k-{n}", artifacts=artifacts) for n in range(6)]
    node.write(*six)
    for process in [node.start(n) for n in range(1, 7)]:
        assert process.wait(120) == 0, node.log()
    records = [node.record(n) for n in range(1, 7)]
    assert {r.reason for r in records} == {Reason.COMPLETED}
    assert len({r.last_lines for r in records}) == 1
    assert records[0].last_lines[0].startswith("1.17.0 ")
    assert sum(node.event("built", n) is not None for n in range(1, 7)) == 1
    assert node.event("left_out") is not None
    told = [json.loads(path.read_text()) for path in node.store.glob("metadata/scrape-*.json")]
    packages = [
        {p["package"]["key"]: p["package"] for p in t["studioml"]["pipdeptree"]} for t in told
    ]
    assert [p["six"]["installed_version"] for p in packages] == ["1.17.0"] * 6


def test_a_package_that_no_index_has_ends_the_attempt_with_the_installers_words(
    node: Node,
) -> None:
    requirement = "hpcrunner-has-no-such-package==1.0"
    experiment = node.script("", python_packages=(requirement,))
    record = node.run(experiment)
    assert record.reason is Reason.ENVIRONMENT_FAILED
    assert "hpcrunner-has-no-such-package" in record.text
    output = node.members("output.tar")["./output"].decode()
    # One line has the essential; all that the installer printed stays in the output.
    assert len(record.text) < 500 and " | " not in record.text
    assert output.count("hpcrunner-has-no-such-package") > record.text.count(requirement[:-5])
