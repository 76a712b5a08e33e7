"""Many users: rules at intake, limits of each at dispatch, and nobody in another's way."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from hpcrunner.gateway.experiment import State, Whose
from hpcrunner.gateway.fairness import SiteShares, in_turn, within_caps
from hpcrunner.gateway.gateway import Gateway, Hold
from hpcrunner.gateway.intake import Intake
from hpcrunner.gateway.lock import Contender, wait_for_lock
from hpcrunner.gateway.spool import Verb
from hpcrunner.gateway.view import why
from hpcrunner.queues.contract import Delivery
from hpcrunner.request.reasons import Reason
from hpcrunner.schedulers.contract import JobState, Sighting, Verdict
from hpcrunner.sites.rules import Rule
from hpcrunner.sites.site import Site

RULES = [
    {"name": "banned", "queues": "^rmq_x_", "allowed": False},
    {"name": "signed", "queues": "^rmq_vip_", "signed": True, "account": "vip"},
    {
        "name": "students",
        "queues": "^rmq_students_",
        "account": "limited",
        "qos": "low",
        "max_jobs": 5,
        "max_jobs_per_owner": 2,
    },
    {"name": "each", "queues": "^rmq_each_", "max_jobs_per_queue": 1},
    {"name": "rest", "queues": "^rmq_free|^local_pile$"},
]


@pytest.fixture
def site(site: Site) -> Site:
    return changed(site, rules=RULES, limits={**site.limits.model_dump(), "max_held": 4})


def changed(site: Site, **keys: Any) -> Site:
    return Site.model_validate({**site.model_dump(exclude={"s3"}), **keys})


def of(body: bytes, queue: str, owner: str = "") -> Delivery:
    request = json.loads(body)
    request["experiment"]["owner"] = owner
    return Delivery(queue, json.dumps(request).encode(), server="broker")


def take(parts: Any, *deliveries: Delivery) -> None:
    parts.pile.waiting += deliveries
    parts.intake.drain(1000)


def keys(experiments: Sequence[Any]) -> list[str]:
    return [e.key for e in experiments]


def end(parts: Any, *names: str) -> None:
    for e in parts.journal.in_state(State.PENDING):
        if not names or e.key in names:
            parts.scheduler.sightings[e.job_id] = Sighting(
                Verdict.FOUND, JobState.ENDED, reason=Reason.CANCELLED, accounted=True
            )
    parts.track.step()


def test_a_request_gets_what_its_rule_says_and_one_without_a_rule_is_set_aside(
    parts: Any, message: Any
) -> None:
    take(
        parts,
        of(message("student"), "rmq_students_1", "ann"),
        of(message("banned"), "rmq_x_1"),
        of(message("unsigned"), "rmq_vip_1"),
        of(message("unknown"), "rmq_other"),
    )
    (student,) = parts.journal.live()
    assert (student.rule, student.spec.account, student.spec.qos) == ("students", "limited", "low")
    texts = {e.key: e.text for e in parts.journal.aside()}
    assert "rule banned runs none of these" in texts["banned"]
    assert "none of the site's rules is for it" in texts["unknown"]
    assert "not signed" in texts["unsigned"]
    assert all("\n" not in text for text in texts.values())


@pytest.mark.parametrize("at_once", [True, False])
def test_what_one_queue_may_not_run_is_no_copy_when_it_comes_by_one_that_may(
    parts: Any, message: Any, at_once: bool
) -> None:
    refused, again = (of(message("a"), "rmq_x_1") for _ in range(2))
    taken, copy = (of(message("a"), "rmq_students_1") for _ in range(2))
    if at_once:
        take(parts, refused, again, taken, copy)
    else:
        for delivery in (refused, again, taken, copy):
            take(parts, delivery)
    assert [e.queue for e in parts.journal.live()] == ["rmq_students_1"]
    assert [e.queue for e in parts.journal.aside()] == ["rmq_x_1"]


def test_equal_experiments_of_two_owners_travel_as_one_array(parts: Any, message: Any) -> None:
    take(
        parts,
        *(of(message(f"a{n}"), "rmq_students_1", "ann") for n in range(2)),
        *(of(message(f"b{n}"), "rmq_students_2", "bob") for n in range(2)),
    )
    assert parts.dispatch.step() == 4
    assert parts.scheduler.sizes == [4]


def test_what_exceeds_its_owners_limit_waits_with_a_remark_and_goes_when_one_has_ended(
    parts: Any, message: Any
) -> None:
    take(
        parts,
        *(of(message(f"a{n}"), "rmq_students_1", "ann") for n in range(4)),
        of(message("b0"), "rmq_students_1", "bob"),
    )
    assert parts.dispatch.step() == 3
    assert sorted(keys(parts.journal.in_state(State.PENDING))) == ["a0", "a1", "b0"]
    waiting = parts.journal.in_state(State.ACCEPTED)
    assert keys(waiting) == ["a2", "a3"]
    assert {why(e) for e in waiting} == {
        "rule students: at most 2 of one owner in the scheduler at once"
    }
    assert parts.dispatch.wait() is None, "nothing to do until one ends"
    assert parts.dispatch.step() == 0
    end(parts, "b0")
    assert parts.dispatch.step() == 0
    end(parts, "a0")
    assert parts.dispatch.step() == 1
    assert sorted(keys(parts.journal.in_state(State.PENDING))) == ["a1", "a2"]


def test_limits_of_a_rule_and_of_each_queue_hold_and_a_restart_forgets_none(
    parts: Any, message: Any
) -> None:
    for owner in "abcd":
        take(parts, *(of(message(owner + n), "rmq_students_1", owner) for n in "12"))
    take(parts, *(of(message(q + n), f"rmq_each_{q}") for q in "pq" for n in "12"))
    assert parts.dispatch.step() == 5 + 2
    owners = Counter(e.owner for e in parts.journal.in_state(State.PENDING) if e.owner)
    assert sorted(owners.values()) == [1, 1, 1, 2], "the first of each goes before another's second"
    parts.start()
    assert parts.dispatch.held == {"rmq_students_1": 3, "rmq_each_p": 1, "rmq_each_q": 1}
    assert parts.dispatch.step() == 0
    remarks = {why(e) for e in parts.journal.in_state(State.ACCEPTED)}
    assert "rule students: at most 5 in the scheduler at once" in remarks
    assert "rule each: at most 1 of one queue in the scheduler at once" in remarks


def test_a_rule_that_is_gone_from_the_site_limits_nobody_any_more(parts: Any, message: Any) -> None:
    take(parts, *(of(message(f"a{n}"), "rmq_students_1", "ann") for n in range(4)))
    assert parts.dispatch.step() == 2
    parts.site = changed(parts.site, rules=RULES[-1:])
    parts.start()
    assert parts.dispatch.step() == 2
    assert {e.spec.account for e in parts.journal.live()} == {"limited"}, "as it was accepted"


def test_a_retry_from_the_dead_list_is_by_the_rule_for_its_queue(parts: Any, message: Any) -> None:
    take(parts, of(message("k"), "rmq_students_1", "ann"))
    parts.dispatch.step()
    (e,) = parts.journal.live()
    parts.scheduler.sightings[e.job_id] = Sighting(
        Verdict.FOUND, JobState.ENDED, reason=Reason.OUT_OF_MEMORY, accounted=True
    )
    parts.track.step()
    parts.clock.forward(1000)
    parts.track.step()
    (dead,) = parts.journal.aside()
    parts.spool.wish(Verb.RETRY, [dead.id])
    parts.wishes.step()
    (again,) = parts.journal.live()
    assert (again.rule, again.owner) == ("students", "ann")


@pytest.fixture
def running(parts: Any) -> Iterator[Callable[..., Gateway]]:
    """A gateway whose jobs all end between two rounds, and that has room for few."""
    locks = []

    def running(max_jobs: int) -> Gateway:
        lock = wait_for_lock(Contender(parts.spool.lock), time.sleep, patience=10)
        assert lock is not None
        locks.append(lock)
        shares = SiteShares(parts.site)
        intake = Intake(
            [parts.pile],
            parts.journal,
            parts.site,
            clock=parts.clock,
            new_id=lambda: f"{next(parts.ids):012x}",
            shares=shares,
        )
        return Gateway(
            Hold(parts.spool, lock, parts.journal),
            intake,
            parts.dispatch,
            parts.track,
            parts.wishes,
            max_jobs=max_jobs,
            clock=parts.clock,
            shares=shares,
        )

    yield running
    for lock in locks:
        lock.close()


def test_those_held_back_take_no_room_and_the_rest_of_them_stays_in_the_queue(
    parts: Any, message: Any, running: Callable[..., Gateway]
) -> None:
    gateway = running(max_jobs=6)
    shares = SiteShares(parts.site)
    by_queue = parts.pile.take

    def take_by_room(most: int) -> list[Delivery]:
        shares.hold(parts.dispatch.held)
        room = shares.room("rmq_students_1") or 0
        first = [d for d in parts.pile.waiting if d.queue == "rmq_students_1"][:room]
        others = [d for d in parts.pile.waiting if d.queue != "rmq_students_1"]
        left = [d for d in parts.pile.waiting if d not in first and d not in others]
        parts.pile.waiting = [*first, *others]
        taken = by_queue(most)
        parts.pile.waiting += left
        return list(taken)

    parts.pile.take = take_by_room
    parts.pile.waiting = [of(message(f"a{n}"), "rmq_students_1", "ann") for n in range(40)]
    for _ in range(10):
        gateway.step()
        parts.clock.forward(60)
    live = parts.journal.live()
    assert Counter(e.state for e in live) == {State.PENDING: 2, State.ACCEPTED: 4}
    assert len(parts.pile.waiting) == 34, "no more are held than max_held"
    parts.pile.waiting += [of(message(f"f{n}"), "rmq_free") for n in range(9)]
    gateway.step()
    gateway.step()
    pending = Counter(e.queue for e in parts.journal.in_state(State.PENDING))
    assert pending == {"rmq_students_1": 2, "rmq_free": 4}, "all the room that is left"


def test_only_queues_of_limited_rules_are_ever_closed(site: Site) -> None:
    shares = SiteShares(site)
    assert (shares.room("rmq_students_1"), shares.room("rmq_free")) == (4, None)
    shares.hold({"rmq_students_1": 3, "rmq_free": 9})
    assert (shares.room("rmq_students_1"), shares.room("rmq_free")) == (1, None)
    shares.hold({"rmq_students_1": 30})
    assert shares.room("rmq_students_1") == 0


def experiments(parts: Any, message: Any, owners: str) -> list[Any]:
    take(parts, *(of(message(f"{o}{n}"), "rmq_free", o) for n, o in enumerate(owners)))
    return list(parts.journal.due(parts.clock()))


def test_owners_go_in_turn_and_who_has_less_there_goes_first(parts: Any, message: Any) -> None:
    waiting = experiments(parts, message, "aaaabbc")
    assert "".join(e.owner for e in in_turn(waiting, {})) == "abcabaa"
    crowd = {Whose("rest", "rmq_free", "b"): 2, Whose("gone", "rmq_old", "b"): 1}
    assert "".join(e.owner for e in in_turn(waiting, crowd)) == "acaaabb"


def test_what_was_let_go_is_not_overtaken_before_it_is_gone(parts: Any, message: Any) -> None:
    waiting = experiments(parts, message, "aab")
    rules = [Rule(name="rest", max_jobs=1)]
    first = within_caps(waiting, rules, {}).go
    assert keys(first) == ["a0"]
    turned = waiting[::-1]
    assert within_caps(turned, rules, {}, {e.id for e in first}).go == first
    assert keys(within_caps(turned, rules, {}).go) == ["b2"]


def test_with_room_for_few_each_owner_gets_some_of_it(parts: Any, message: Any) -> None:
    parts.site = changed(parts.site, limits={**parts.site.limits.model_dump(), "max_jobs": 3})
    parts.start()
    experiments(parts, message, "aaaaaab")
    assert parts.dispatch.step() == 3
    assert sorted(e.owner for e in parts.journal.in_state(State.PENDING)) == ["a", "a", "b"]
    assert parts.dispatch.wait() is None, "nothing to do until one ends"
