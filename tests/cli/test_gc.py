"""``hpcrunner gc`` as a person meets it, also when it is killed at its worst moments."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.gateway.experiment import Experiment, Outcome, State
from hpcrunner.gateway.journal import Journal, NewExperiment
from hpcrunner.gateway.spool import Spool
from hpcrunner.request.plan import NodeSetup, Plan, PlannedExperiment
from hpcrunner.request.reasons import Reason
from hpcrunner.sites.spec import JobSpec

HPCRUNNER = str(Path(sys.executable).with_name("hpcrunner"))
DAY = 86400.0
WON = Outcome(State.SUCCEEDED, Reason.COMPLETED, "ended well", exit_code=0)
FAILED = Outcome(State.FAILED, Reason.PAYLOAD_EXIT, "ended with exit code 3", exit_code=3)
SPEC = JobSpec(cpus=1)


class Person:
    """Somebody at a shell, with a spool in which two batches ended 40 and 100 days ago."""

    def __init__(self, folder: Path) -> None:
        self.spool = Spool(folder / "spool")
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "SPOOL": str(self.spool.root),
        }
        self.spool.prepare()
        self.batch("b" * 12, 40, {"e" * 12: WON, "f" * 12: WON})
        self.batch("d" * 12, 100, {"a" * 12: FAILED})

    def batch(self, name: str, days: float, endings: dict[str, Outcome]) -> None:
        journal = Journal(self.spool.journal, lambda: time.time() - days * DAY)
        rows, planned = [], []
        for id_ in endings:
            e = Experiment(id_, f"key-{id_}", "q", State.ACCEPTED, 1.0, spec=SPEC)
            rows.append(NewExperiment(e, b'{"TOKEN": "hush-hush"}', f"digest {id_}"))
            planned.append(PlannedExperiment(id_, f"key-{id_}", id_, 1, "train.py", (), ()))
        journal.add(rows)
        journal.settled(list(endings))
        plan = Plan(name, NodeSetup("/tmp", "/tmp"), tuple(planned))
        folder = self.spool.write_batch(plan, "#!/bin/sh\n")
        members = dict(enumerate(endings, start=1))
        journal.begin_batch(name, SPEC, members, size=len(members))
        journal.batch_submitted(name, [f"{name}_{task}" for task in members])
        for task in members:
            (folder / "claims" / str(task)).write_text("{}")
            self.spool.log(name, task).write_text("a line of output\n")
        journal.end(list(endings.items()))
        journal.client_told(endings)
        journal.close()

    def run(self, *words: str, code: int = 0, **env: str) -> tuple[str, str]:
        done = subprocess.run(
            [HPCRUNNER, *words],
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done.stdout, done.stderr

    def numbers(self, *words: str) -> dict[str, int]:
        kinds = json.loads(self.run("gc", "--json", *words)[0])["kinds"]
        return {kind: count["number"] for kind, count in kinds.items() if count["number"]}

    def everything(self) -> tuple[Any, list[str]]:
        files = [
            (str(path), (s := path.lstat()).st_mode, s.st_size, s.st_mtime_ns)
            for path in sorted(self.spool.root.rglob("*"))
        ]
        with sqlite3.connect(f"file:{self.spool.journal}?mode=ro", uri=True) as db:
            return files, list(db.iterdump())

    def experiments(self) -> int:
        with sqlite3.connect(self.spool.journal) as db:
            return int(db.execute("SELECT count(*) FROM experiments").fetchone()[0])


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person(tmp_path)


def until(holds: Callable[[], Any], seconds: float = 150) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := holds():
            return answer
        time.sleep(0.1)
    raise AssertionError("it never came to be")


def test_a_dry_run_tells_what_would_go_and_changes_nothing(person: Person) -> None:
    before = person.everything()
    out, _ = person.run("gc", "--dry-run")
    assert person.everything() == before
    assert [line.split()[:2] for line in out.splitlines()[:7]] == [
        ["plans", "0"],
        ["messages", "0"],
        ["batches", "2"],
        ["experiments", "3"],
        ["results", "0"],
        ["archives", "0"],
        ["leftovers", "0"],
    ]
    assert "nothing was changed" in out
    assert person.numbers("--dry-run", "--older-than", "50d") == {
        "plans": 1,
        "messages": 2,
        "batches": 1,
        "experiments": 1,
    }
    assert person.everything() == before


def test_gc_removes_it_and_says_so(person: Person) -> None:
    assert person.numbers() == {"batches": 2, "experiments": 3}
    assert person.spool.batch_names() == []
    assert person.experiments() == 0
    assert person.numbers() == {}
    assert json.loads(person.run("status", "--json")[0]) == []


def test_a_running_gateway_is_asked_and_does_it(person: Person) -> None:
    gateway = subprocess.Popen([HPCRUNNER, "gateway"], env=person.env, stderr=subprocess.DEVNULL)
    try:
        until(lambda: "pid" in person.spool.lock.read_text() if person.spool.lock.exists() else 0)
        out, _ = person.run("gc")
        assert "a gateway already runs here" in out
        assert "asked to collect now" in out
        until(lambda: person.spool.batch_names() == [] and person.experiments() == 0)
    finally:
        gateway.terminate()
        assert gateway.wait(120) == 0


@pytest.mark.parametrize("age", ["10", "never", "-1d", "1y", "UNLIMITED", "1.5d"])
def test_an_age_that_is_none_is_one_line(person: Person, age: str) -> None:
    before = person.everything()
    _, err = person.run("gc", f"--older-than={age}", code=64)
    assert err == f"hpcrunner: --older-than: '{age}' is not an age; write 10d, 12h, 90m or 0\n"
    assert person.everything() == before


def test_a_spool_that_is_not_there_is_one_line_and_is_not_made(tmp_path: Path) -> None:
    spool = tmp_path / "none"
    for words in (["gc"], ["gc", "--dry-run"]):
        done = subprocess.run(
            [HPCRUNNER, *words, "--spool", spool], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 73
        assert len(done.stderr.splitlines()) == 1
        assert not spool.exists()


@pytest.mark.parametrize(
    "point",
    ["gc.blanked", "gc.plan_removed", "gc.released", "gc.removed", "gc.folders_gone"],
)
def test_a_gc_that_is_killed_leaves_a_spool_the_gateway_starts_on(
    person: Person, tmp_path: Path, point: str
) -> None:
    person.batch("c" * 12, 2, {"9" * 12: WON})
    crash = f"{point}:1:{tmp_path}"
    person.run("gc", code=-9, HPCRUNNER_CRASH=crash)
    assert (tmp_path / point).exists()
    _, err = person.run("gateway", "--limit-idle-duration", "1s")
    assert [line for line in err.splitlines() if " ERROR " in line or " WARNING " in line] == []
    person.run("gc")
    assert person.spool.batch_names() == ["c" * 12]
    assert person.experiments() == 1
    assert b"hush-hush" not in person.spool.journal.read_bytes()
