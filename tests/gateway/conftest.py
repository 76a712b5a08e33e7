"""A gateway with real spool, journal and texts, and a scheduler that fails on demand."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.batch.batch import Batch
from hpcrunner.client.build import Work
from hpcrunner.client.publish import publish, store_work
from hpcrunner.gateway.dispatch import Dispatch
from hpcrunner.gateway.intake import Intake
from hpcrunner.gateway.journal import Journal
from hpcrunner.gateway.opening import Opener
from hpcrunner.gateway.spool import Spool
from hpcrunner.gateway.track import Track
from hpcrunner.gateway.wishes import Wishes
from hpcrunner.queues.contract import Delivery, Served
from hpcrunner.schedulers.contract import (
    Job,
    JobState,
    Sighting,
    Sought,
    Submission,
    Verdict,
)
from hpcrunner.sites.site import Site


class Clock:
    """Time that moves when told to."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class FaultyScheduler:
    """A scheduler that counts what reaches it and fails as told.

    ``faults`` are used up one a submission: each is called with the batch and a function that
    accepts it, and may raise before or after that.
    """

    name: str = "faulty"
    faults: list[Callable[[Batch, Callable[[], Submission]], Submission]] = field(
        default_factory=list
    )
    reached: Counter[str] = field(default_factory=Counter)
    sizes: list[int] = field(default_factory=list)
    visible: bool = True
    available: bool = True
    sightings: dict[str, Sighting] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    questions: int = 0

    def submit(self, batch: Batch) -> Submission:
        def accept() -> Submission:
            self.reached[batch.id] += 1
            self.sizes.append(batch.size)
            return self._submission(batch)

        fault = self.faults.pop(0) if self.faults else None
        return fault(batch, accept) if fault else accept()

    def _submission(self, batch: Batch) -> Submission:
        return Submission(tuple(f"{batch.id}_{i}" for i in range(1, batch.size + 1)))

    def seek(self, batches: Sequence[Batch], since: float) -> Mapping[str, Sought]:
        return {batch.id: self._sought(batch) for batch in batches}

    def _sought(self, batch: Batch) -> Sought:
        if not self.available:
            return Sought(Verdict.UNAVAILABLE)
        if self.visible and self.reached[batch.id]:
            return Sought(Verdict.FOUND, self._submission(batch))
        return Sought(Verdict.NOT_FOUND)

    def look_up(self, jobs: Sequence[Job], since: float) -> Mapping[Job, Sighting]:
        self.questions += 1
        if not self.available:
            return {j: Sighting(Verdict.UNAVAILABLE) for j in jobs}
        queued = Sighting(Verdict.FOUND, JobState.QUEUED, pending="Resources")
        return {j: self.sightings.get(j.id, queued) for j in jobs}

    def cancel(self, jobs: Sequence[Job]) -> None:
        self.cancelled += [job.id for job in jobs]

    def close(self) -> None:
        pass


class Pile:
    """A source that is a list of messages in this process, and remembers what was settled."""

    name = "pile"

    def __init__(self) -> None:
        self.waiting: list[Delivery] = []
        self.accepted: list[Delivery] = []

    def put(self, body: bytes, *, redelivered: bool = False) -> None:
        self.waiting.append(Delivery("local_pile", body, redelivered))

    def take(self, most: int) -> list[Delivery]:
        taken, self.waiting = self.waiting[:most], self.waiting[most:]
        return taken

    def accept(self, deliveries: Sequence[Delivery]) -> None:
        self.accepted += deliveries

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        self.waiting = [*deliveries, *self.waiting]

    def served(self) -> Served:
        return Served("local", ("local_pile",))

    def close(self) -> None:
        pass


def message(key: str, **resources: object) -> bytes:
    """A sound request, its code in a folder that nobody fetches here."""
    return json.dumps(
        {
            "config": {
                "storage": {"type": "local", "endpoint": "/tmp/store", "bucket": "storage"},
                "env": {"TOKEN": "hush-hush"},
            },
            "experiment": {
                "key": key,
                "filename": "train.py",
                "args": ["3"],
                "resources_needed": {"cpus": 1, "gpus": 0, "ram": "1g", "hdd": "1g", **resources},
                "artifacts": {
                    "workspace": {
                        "mutable": False,
                        "unpack": True,
                        "key": "blobstore/x.tar",
                        "qualified": "file:///tmp/store/storage/blobstore/x.tar",
                    }
                },
            },
        }
    ).encode()


@dataclass
class Parts:
    """All parts of a gateway, to be stepped one by one, and to be started again."""

    site: Site
    clock: Clock
    scheduler: FaultyScheduler
    pile: Pile
    journal: Journal
    spool: Spool
    ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """What a new process does: open the journal again and forget everything else."""
        self.journal.close()
        self.journal = Journal(self.spool.journal, self.clock)
        make = {"clock": self.clock, "new_id": lambda: f"{next(self.ids):012x}"}
        opener = Opener(own=self.pile.name)
        self.intake = Intake([self.pile], self.journal, self.site, opener=opener, **make)  # type: ignore[arg-type]
        self.dispatch = Dispatch(self.journal, self.spool, self.scheduler, self.site, **make)  # type: ignore[arg-type]
        self.track = Track(self.journal, self.spool, self.scheduler, self.site, clock=self.clock)
        self.wishes = Wishes(self.journal, self.spool, self.scheduler, self.site, **make)  # type: ignore[arg-type]
        self.dispatch.recover()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site.model_validate(
        {
            "name": "here",
            "spool": str(tmp_path / "spool"),
            "settle": 60,
            "limits": {"submit_rate": "100/1s"},
            "partitions": [{"name": "cpu", "max_memory": "8G"}],
        }
    )


@pytest.fixture
def parts(site: Site, tmp_path: Path) -> Parts:
    clock = Clock()
    spool = Spool(site.spool_path)
    spool.prepare()
    return Parts(site, clock, FaultyScheduler(), Pile(), Journal(spool.journal, clock), spool)


@pytest.fixture(name="message")
def message_maker() -> Callable[..., bytes]:
    return message


PAYLOAD = """
import os, sys, time
def note(word):
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(f"{word} {sys.argv[1]} {os.environ.get('COLOUR', '')}\\n")
note("began")
until = time.monotonic() + float(sys.argv[2])
while time.monotonic() < until and not os.path.exists(os.environ["LEDGER"] + ".end"):
    time.sleep(0.05)
note("ended")
"""


class Login:
    """A login node: ``hpcrunner`` as real processes over one spool, with the local scheduler.

    Payloads note each run in a ledger; those told to wait end early once ``let_end`` was called.
    """

    def __init__(self, folder: Path, spool: Path, user: int | None = None) -> None:
        self.folder = folder
        self.spool = spool
        self.queue = folder / "queue" / "local_work"
        self.ledger = folder / "ledger"
        self._user = user
        self._started: list[subprocess.Popen[bytes]] = []
        for made in ("code", "queue", "queue/local_work", "cache", "scratch"):
            (folder / made).mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "code" / "run.py").write_text(PAYLOAD)
        self.site = folder / "site.yaml"
        self.write_site()
        self.own()

    def write_site(self, **keys: object) -> None:
        settled = {
            "name": "here",
            "scheduler": "local",
            "spool": str(self.spool),
            "cache": str(self.folder / "cache"),
            "scratch": str(self.folder / "scratch"),
            "local": {"cpus": 8, "memory": "16G"},
            "polling": {"floor": 0.5, "ceiling": 2},
            **keys,
        }
        self.site.write_text(json.dumps(settled))

    def own(self) -> None:
        """Everything made so far is the user's."""
        if self._user is not None:
            subprocess.run(["chown", "-R", str(self._user), self.folder, self.spool.parent])

    def publish(self, *names: str, seconds: float = 0.0) -> None:
        for name in names:
            work = Work(
                "run.py", args=(name, str(seconds)), environment={"LEDGER": str(self.ledger)}
            )
            _, body = store_work(work, self.folder / "code", self.folder / "store")
            publish(self.queue, body)
        self.own()

    def let_end(self) -> None:
        Path(f"{self.ledger}.end").touch()

    def runs(self, word: str = "began") -> Counter[str]:
        """How often each experiment began (or ended)."""
        if not self.ledger.exists():
            return Counter()
        lines = [line.split() for line in self.ledger.read_text().splitlines()]
        return Counter(line[1] for line in lines if line[0] == word)

    def command(self, *words: str) -> list[str]:
        command, *more = words
        program = str(Path(sys.executable).with_name("hpcrunner"))
        return [program, command, "--site", str(self.site), *more]

    def run(
        self, *words: str, code: int = 0, env: Mapping[str, str] | None = None
    ) -> tuple[str, str]:
        done = subprocess.run(
            self.command(*words),
            env={**self._env(), **(env or {})},
            capture_output=True,
            text=True,
            timeout=120,
            user=self._user,
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done.stdout, done.stderr

    def gateway(
        self,
        *options: str,
        log: str = "gateway.log",
        ready: str = "queues of",
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """A gateway that has said ``ready`` once more than its log had before."""
        before = self.log(log).count(ready)
        root = str(self.queue.parent)
        with (self.folder / log).open("ab") as out:
            process = subprocess.Popen(
                self.command("gateway", "--queue-root", root, *options),
                env={**self._env(), **(env or {})},
                stdout=out,
                stderr=out,
                user=self._user,
            )
        self._started.append(process)
        if ready:
            until(
                lambda: self.log(log).count(ready) > before or process.poll() is not None,
                lambda: self.log(log),
            )
            assert self.log(log).count(ready) > before, self.log(log)
        return process

    def log(self, name: str = "gateway.log") -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def status(self) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = json.loads(self.run("status", "--json", "--most", "1000")[0])
        return told

    def states(self) -> Counter[str]:
        return Counter(e["state"] for e in self.status())

    def waiting(self) -> list[str]:
        """The messages that lie in the queue's folder."""
        return [name for name in os.listdir(self.queue) if not name.startswith((".", "lock"))]

    def close(self) -> None:
        if self.folder.exists():
            self.let_end()
        for process in self._started:
            process.kill()
            process.wait()

    def _env(self) -> dict[str, str]:
        tmp = self.folder / "tmp"  # what is killed leaves here what it had
        tmp.mkdir(exist_ok=True)
        tmp.chmod(0o777)
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder), "TMPDIR": str(tmp)}


def until(holds: Callable[[], Any], told: Callable[[], object] = str, seconds: float = 150) -> Any:
    """Wait for a condition; ``told`` is what to show where it never comes to be."""
    end = time.monotonic() + seconds
    while not (answer := holds()):
        assert time.monotonic() < end, told()
        time.sleep(0.05)
    return answer


@pytest.fixture(name="until")
def until_function() -> Callable[..., Any]:
    return until


@pytest.fixture
def login(tmp_path: Path) -> Iterator[Login]:
    made = Login(tmp_path, tmp_path / "spool")
    yield made
    made.close()


@pytest.fixture(scope="session")
def login_type() -> type[Login]:
    """For tests that share one; whoever makes it closes it."""
    return Login


@pytest.fixture
def login_on() -> Iterator[Callable[..., Login]]:
    """A login node whose spool lies on a given folder, and whose user may be another."""
    made: list[Login] = []

    def make(folder: Path, spool: Path, user: int | None = None) -> Login:
        made.append(Login(folder, spool, user))
        return made[-1]

    yield make
    for one in made:
        one.close()
