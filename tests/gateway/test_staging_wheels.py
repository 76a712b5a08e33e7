"""Python packages on the login node of a site that builds none there."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.gateway.experiment import Experiment, State
from hpcrunner.gateway.preparation import READY, Failed, Standing, Waiting
from hpcrunner.gateway.staging import wheelhouse
from hpcrunner.gateway.staging.layout import Layout
from hpcrunner.gateway.staging.wheelhouse import PINS, USED, Wanted
from hpcrunner.gateway.staging.wheels import Wheels
from hpcrunner.request.image import PlannedImage
from hpcrunner.request.plan import PlannedExperiment
from hpcrunner.request.reasons import Reason
from hpcrunner.sites.site import Site

Prepared = Callable[..., Standing]
ASKED = Experiment("0" * 12, "key", "queue", State.ACCEPTED, 0.0)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Wanted, dict[str, str]]]:
    """What pip would have been asked for, and its environment."""
    made: list[tuple[Wanted, dict[str, str]]] = []

    def build(wanted: Wanted, folder: Path, environ: dict[str, str], _: object) -> None:
        made.append((wanted, environ))
        (folder / USED).mkdir(parents=True)
        (folder / PINS).write_text("{}")

    monkeypatch.setattr(wheelhouse, "build", build)
    return made


@pytest.fixture
def prepared(tmp_path: Path, built: object) -> Iterator[Prepared]:
    layout = Layout(tmp_path / "staging")
    layout.prepare()
    site = Site(name="x", scheduler="local", environment={"PIP_ONLY_BINARY": ":all:"})
    wheels = Wheels(layout, site)

    def prepare(*lines: str, **settings: str) -> Standing:
        planned = PlannedExperiment(
            *("", "key", "name", 1, "run.py", (), ()),
            python_packages=lines,
            environment=tuple(settings.items()),
        )
        wheels.step(())
        wheels.want(ASKED, planned)
        until = time.monotonic() + 60
        while isinstance(standing := wheels.standing(ASKED), Waiting):
            assert time.monotonic() < until
            time.sleep(0.01)
        assert standing is not None
        return standing

    yield prepare
    wheels.close()


@pytest.mark.parametrize(
    "line",
    [
        "https://evil.example/x-1.tar.gz",
        "HTTPS://evil.example/x-1.tar.gz",
        "https://evil.example/x-1-py3-none-any.whl",  # which may name others by their address
        "x @ git+https://evil.example/x",
        "x[y]@https://evil.example/x.zip ; python_version > '3'",
        "-e git+https://evil.example/x#egg=x",
        "ftp://evil.example/x.tar.gz",
        "${PIP_INDEX_URL}",
    ],
)
def test_what_has_an_address_is_not_built_where_the_site_takes_wheels_only(
    prepared: Prepared, built: list[Any], line: str
) -> None:
    standing = prepared("numpy==1.26.4", line)
    assert isinstance(standing, Failed), line
    assert standing.reason is Reason.ENVIRONMENT_FAILED
    assert "takes wheels only" in standing.text and built == []


def test_a_request_cannot_have_packages_built_there_after_all(
    prepared: Prepared, built: list[Any]
) -> None:
    lines = ("numpy==1.26.4", "scipy[test] >= 1 ; python_version > '3'", "x==1 --hash=sha256:00")
    prepared(*lines, PIP_ONLY_BINARY=":none:", PIP_NO_BINARY=":all:", UV_INDEX_URL="http://evil")
    ((wanted, environ),) = built
    assert (wanted.settings, environ["PIP_ONLY_BINARY"]) == ((), ":all:")
    assert "PIP_NO_BINARY" not in environ and "evil" not in str(environ)


@pytest.mark.parametrize(
    ("line", "settings"),
    [
        ("alpha @ http://10.1.2.3/alpha-1.tar.gz", {}),
        ("git+https://user:secret@localhost:8080/x", {}),
        ("https://store.example@store.example@127.0.0.1/alpha-1.tar.gz", {}),
        ("https://93.184.215.14\\@127.0.0.1/alpha-1.tar.gz", {}),
        ("https://${PIP_HOST}/alpha-1.tar.gz", {"PIP_HOST": "127.0.0.1"}),
        ("alpha==1", {"PIP_INDEX_URL": "https://169.254.169.254/simple"}),
        ("alpha==1", {"UV_FIND_LINKS": "/shared http://[::1]:9/links"}),
        ("alpha==1", {"https_proxy": "127.0.0.1:3128"}),
    ],
)
def test_a_host_that_messages_may_not_name_is_refused_before_pip_is_asked(
    tmp_path: Path, built: list[Any], line: str, settings: dict[str, str]
) -> None:
    layout = Layout(tmp_path / "staging")
    layout.prepare()
    wheels = Wheels(layout, Site(name="x", scheduler="local"))
    planned = PlannedExperiment(
        *("", "key", "name", 1, "run.py", (), ()),
        python_packages=(line,),
        environment=tuple(settings.items()),
    )
    wheels.want(ASKED, planned)
    until = time.monotonic() + 60
    while isinstance(standing := wheels.standing(ASKED), Waiting):
        assert time.monotonic() < until
        time.sleep(0.01)
    wheels.close()
    assert isinstance(standing, Failed) and built == []
    assert standing.reason is Reason.ARTIFACT_DENIED
    assert "gateway_hosts" in standing.text and "secret" not in standing.text


def test_an_image_is_started_once_to_ask_for_its_python_however_many_want_packages(
    tmp_path: Path, built: list[Any], containers: Any
) -> None:
    layout = Layout(tmp_path / "staging")
    layout.prepare()
    started = tmp_path / "started"
    program = tmp_path / "apptainer"
    program.write_text(f'#!/bin/sh\necho >>{started}\nexec {containers.program} "$@"\n')
    program.chmod(0o755)
    container = {
        "runtime": "apptainer",
        "program": str(program),
        "pythonenv": "install",
        "userns": True,
    }
    site = Site.model_validate({"name": "x", "scheduler": "local", "container": container})
    wheels = Wheels(layout, site)
    for number in range(3):
        experiment = replace(ASKED, id=f"{number:012x}")
        planned = PlannedExperiment(
            *("", "key", "name", 1, "run.py", (), ()),
            python_packages=("alpha==1",),
            image=PlannedImage(str(containers.python)),
        )
        wheels.want(experiment, planned)
        until = time.monotonic() + 120
        while isinstance(standing := wheels.standing(experiment), Waiting):
            assert time.monotonic() < until
            time.sleep(0.01)
        assert standing is READY, standing
    wheels.close()
    assert len(started.read_text()) == 1
    ((wanted, _),) = built
    assert wanted.interpreter.version and wanted.inside is not None


# Whatever it is asked for: it makes an environment of itself, a wheel, and what Go leaves behind.
PIP = """#!/bin/sh
for word; do
    case "$before $word" in
    *" -m venv "*|*/venv) mkdir -p "$word/bin"; cp "$0" "$word/bin/python";;
    "--wheel-dir "*)
        echo a wheel > "$word/alpha-1.0-py3-none-any.whl"; chmod 000 "$word"/*.whl
        mkdir -p .work/go/mod; touch .work/go/mod/file; chmod 500 .work/go/mod .work/go
        [ -e "@MARK@" ] && chmod 000 "$word";;
    esac
    before=$word
done
exit 0
"""
BUILD = """
import os, sys
from pathlib import Path
from hpcrunner.gateway.staging import wheelhouse
from hpcrunner.interpreter import Interpreter
from hpcrunner.request.requirements import EnvironmentFailed, groom
python, folder = sys.argv[1:]
wanted = wheelhouse.Wanted(Interpreter(python, "3.11.2", python), (groom(["alpha==1.0"]),))
try:
    wheelhouse.build(wanted, Path(folder), os.environ, lambda: False)
except EnvironmentFailed as error:
    print(error.what)
"""


@pytest.mark.parametrize("closed", [False, True])
def test_what_a_build_has_closed_is_removed_and_not_waited_for(closed: bool) -> None:
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        user = {"user": 65534, "group": 65534, "extra_groups": []}
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        staging, python = Path(name, "staging"), Path(name, "python")
        staging.mkdir()
        staging.chmod(0o777)
        python.write_text(PIP.replace("@MARK@", f"{name}/mark"))
        python.chmod(0o755)
        if closed:
            Path(name, "mark").touch()
        words = [sys.executable, "-c", BUILD, str(python), str(staging / "made")]
        done = subprocess.run(words, capture_output=True, text=True, cwd="/", check=False, **user)
        assert done.returncode == 0, done.stderr
        if closed:
            assert "closed by what it has run" in done.stdout
            assert os.listdir(staging) == []
        else:
            assert os.listdir(staging) == ["made"]
            made = sorted(os.listdir(staging / "made"))
            assert made == ["alpha-1.0-py3-none-any.whl", PINS, USED]


def test_a_disk_that_is_full_for_one_lets_those_who_waited_with_him_go(
    tmp_path: Path, built: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(tmp_path / "staging")
    layout.prepare()
    wheels = Wheels(layout, Site(name="x", scheduler="local"))
    group = [Experiment(f"{n:012x}", "key", "queue", State.ACCEPTED, 0.0) for n in range(4)]
    begin = threading.Event()
    build = wheelhouse.build

    def slow(*words: Any) -> None:
        begin.wait(60)
        build(*words)

    touch = Path.touch

    def full(path: Path, **how: Any) -> None:
        if path.name.startswith(group[0].id):
            raise OSError(errno.ENOSPC, "No space left on device")
        touch(path, **how)

    monkeypatch.setattr(wheelhouse, "build", slow)
    monkeypatch.setattr(Path, "touch", full)
    planned = PlannedExperiment(
        *("", "key", "name", 1, "run.py", (), ()), python_packages=("numpy==1.26.4",)
    )
    until = time.monotonic() + 60
    for e in group:
        wheels.want(e, planned)
        while "being fetched" not in str(wheels.standing(e)):
            assert time.monotonic() < until
            time.sleep(0.01)
    begin.set()
    while [wheels.standing(e) for e in group[1:]] != [READY] * 3:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert "No space left" in str(wheels.standing(group[0]))
    wheels.close()
