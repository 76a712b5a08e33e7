"""A gateway's intake over real queues: a flood on some of them starves none of the others."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpcrunner.gateway.fairness import SiteShares
from hpcrunner.gateway.intake import Intake
from hpcrunner.gateway.journal import Journal
from hpcrunner.queues.directory import DirectorySource
from hpcrunner.queues.matching import QueueFilter
from hpcrunner.sites.site import Site

if TYPE_CHECKING:
    from conftest import Clock, Lab

pytestmark = pytest.mark.rabbitmq

FLOOD, FEW = 400, 12


@pytest.mark.parametrize("room", [1, 6])
def test_with_little_room_every_queue_is_served_by_its_weight_whatever_waits_on_others(
    lab: Lab, clock: Clock, tmp_path: Path, room: int
) -> None:
    numbers = itertools.count()

    def body() -> bytes:
        return json.dumps({"number": next(numbers)}).encode()  # set aside: its queue is what counts

    root = tmp_path / "queues"
    for kind, count in {"flood": FLOOD, "few": FEW, "urgent": 3 * FEW}.items():
        (root / f"local_{kind}").mkdir(parents=True)
        for number in range(count):
            lab.publisher.publish(f"rmq_{kind}", body())
            (root / f"local_{kind}" / f"m{number}").write_bytes(body())
    site = Site.model_validate({"queue_weights": [{"queues": "urgent", "weight": 3}]})
    shares = SiteShares(site)
    directory = DirectorySource(
        root, QueueFilter(), "g", shares=shares, clock=lambda: clock.now + 1e9
    )
    journal = Journal(tmp_path / "journal.db", clock)
    intake = Intake(
        [directory, lab.source(shares=shares)],
        journal,
        site,
        clock=clock,
        new_id=lambda: f"{next(numbers):012x}",
        shares=shares,
    )
    taken: Counter[str] = Counter()
    while min(taken[f"{s}_few"] + taken[f"{s}_urgent"] for s in ("rmq", "local")) < 4 * FEW:
        before = journal.states()
        assert intake.drain(room) <= room
        assert sum(journal.states().values()) > sum(before.values()), "no round is in vain"
        taken = Counter(e.queue for e in journal.recent(10_000))
        clock.forward(1)
    intake.rest()
    assert taken["rmq_flood"] + taken["local_flood"] <= 2 * FEW + 2 * room + 4
    journal.close()


def test_a_queue_of_which_too_much_is_held_back_is_closed_and_the_others_are_served(
    lab: Lab, clock: Clock, tmp_path: Path
) -> None:
    rules = [{"name": "capped", "queues": "_capped$", "max_jobs": 1}, {"name": "rest"}]
    shares = SiteShares(Site.model_validate({"rules": rules, "limits": {"max_held": 5}}))
    root = tmp_path / "queues"
    for name in ("capped", "free"):
        (root / f"local_{name}").mkdir(parents=True)
        for number in range(20):
            (root / f"local_{name}" / f"m{number}").write_bytes(b"m")
            lab.publisher.publish(f"rmq_{name}", b"m")
    directory = DirectorySource(
        root, QueueFilter(), "g", shares=shares, clock=lambda: clock.now + 1e9
    )
    for prefix, source in (("local", directory), ("rmq", lab.source(shares=shares))):
        capped, free = f"{prefix}_capped", f"{prefix}_free"
        taken = source.take(12)
        assert Counter(d.queue for d in taken) == {capped: 5, free: 7}
        shares.hold({capped: 5})
        taken += source.take(4)
        assert Counter(d.queue for d in taken) == {capped: 5, free: 11}
        shares.hold({capped: 3})
        taken += source.take(99)
        assert Counter(d.queue for d in taken) == {capped: 7, free: 20}
        source.accept(taken)
        source.close()
