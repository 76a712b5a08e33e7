"""A gateway that pulls images, killed while it does, with the local scheduler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from registry import Registry

SITE = """
name: here
scheduler: local
spool: {folder}/spool
scratch: {folder}
cache: {folder}/cache
polling: {{floor: 0.1, ceiling: 0.5}}
retries: {{infrastructure: 1, backoff: 0}}
container:
  runtime: apptainer
  program: {program}
  userns: true
  plain_http: ["{host}"]
  pull: gateway
"""


class Person:
    """Somebody with a site file and a terminal."""

    def __init__(self, folder: Path, site: str) -> None:
        self._folder = folder
        (folder / "site.yaml").write_text(site)

    def run(self, *words: str, code: int = 0, **environ: str) -> str:
        done = subprocess.run(
            [str(Path(sys.executable).with_name("hpcrunner")), *words, "--site", "site.yaml"],
            cwd=self._folder,
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout or done.stderr


@pytest.fixture
def person(tmp_path: Path, registry: Registry, containers: Any) -> Person:
    text = SITE.format(folder=tmp_path, program=containers.program, host=registry.host)
    return Person(tmp_path, text)


def test_a_gateway_killed_while_it_pulls_pulls_again_and_runs_the_experiment_once(
    person: Person, registry: Registry, containers: Any, tmp_path: Path
) -> None:
    registry.push_sif("crash/image:1", Path(containers.busybox).read_bytes())
    image = f"oras://{registry.host}/crash/image:1"
    crash = f"images.pulled:1:{tmp_path}"
    person.run("submit", "--container", image, "--wait", code=-9, HPCRUNNER_CRASH=crash)
    assert list(tmp_path.glob("cache/images/pulling/*"))
    person.run("gateway", "--limit-idle-duration", "1s")
    (told,) = json.loads(person.run("status", "--json"))
    assert (told["state"], told["attempt"]) == ("SUCCEEDED", 1), told
    assert registry.pulls("crash/image") == 2
    assert not list(tmp_path.glob("cache/images/pulling/*"))
    assert image in person.run("image", "list")
    plan = next(tmp_path.glob("spool/batches/*/plan.json")).read_text()
    assert json.loads(plan)["experiments"][0]["image"]["path"].endswith(".sif")


def test_an_image_that_the_registry_has_not_ends_the_experiment_before_any_job(
    person: Person, registry: Registry, tmp_path: Path
) -> None:
    image = f"oras://{registry.host}/never/pushed:1"
    person.run("submit", "--container", image, "--wait", code=1)
    (told,) = json.loads(person.run("status", "--json"))
    assert (told["state"], told["reason"], told["attempt"]) == ("FAILED", "ARTIFACT_NOT_FOUND", 1)
    assert image in told["text"]
    assert not list(tmp_path.glob("spool/batches/*"))


def test_an_operator_fills_and_sees_the_cache_by_hand(
    person: Person, registry: Registry, containers: Any, tmp_path: Path
) -> None:
    registry.push_sif("hand/image:1", Path(containers.busybox).read_bytes())
    image = f"oras://{registry.host}/hand/image:1"
    path = person.run("image", "pull", image).splitlines()[-1]
    assert Path(path).parent == tmp_path / "cache" / "images"
    person.run("image", "pull", image)
    assert registry.pulls("hand/image") == 1
    person.run("image", "pull", "--anew", image)
    assert registry.pulls("hand/image") == 2
    (row,) = json.loads(person.run("image", "list", "--json"))
    assert (row["reference"], row["size"]) == (image, Path(path).stat().st_size)
    assert "not a container image" in person.run("image", "pull", "ubuntu", code=65)
