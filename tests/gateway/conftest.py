"""A gateway with real spool, journal and texts, and a scheduler that fails on demand."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hpcrunner.batch.batch import Batch
from hpcrunner.gateway.dispatch import Dispatch
from hpcrunner.gateway.intake import Intake
from hpcrunner.gateway.journal import Journal
from hpcrunner.gateway.spool import Spool
from hpcrunner.gateway.track import Track
from hpcrunner.gateway.wishes import Wishes
from hpcrunner.queues.contract import Delivery
from hpcrunner.schedulers.contract import (
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

    def look_up(self, job_ids: Sequence[str], since: float) -> Mapping[str, Sighting]:
        self.questions += 1
        if not self.available:
            return {j: Sighting(Verdict.UNAVAILABLE) for j in job_ids}
        queued = Sighting(Verdict.FOUND, JobState.QUEUED, pending="Resources")
        return {j: self.sightings.get(j, queued) for j in job_ids}

    def cancel(self, job_ids: Sequence[str]) -> None:
        self.cancelled += job_ids

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
        self.intake = Intake([self.pile], self.journal, self.site, **make)  # type: ignore[arg-type]
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
