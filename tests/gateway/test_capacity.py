"""Limits of the gateway's own: what its experiments may ask for at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hpcrunner.gateway.capacity import UNLIMITED, Capacity, Load, fitting, load_of, obstacle
from hpcrunner.gateway.dispatch import Dispatch
from hpcrunner.gateway.experiment import State
from hpcrunner.request.reasons import Reason
from hpcrunner.schedulers.contract import JobState, Sighting, Verdict
from hpcrunner.sites.spec import JobSpec

GIB = 1024**3
Until = Callable[..., Any]


@pytest.mark.parametrize(
    ("spec", "capacity", "words"),
    [
        (JobSpec(cpus=99, memory=GIB, disk=GIB, gpus=9), UNLIMITED, []),
        (JobSpec(cpus=8), Capacity(cores=8), []),
        (JobSpec(cpus=9), Capacity(cores=8), ["9 CPUs asked, 8 allowed", "--max-cores"]),
        (JobSpec(memory=8 * 10**9), Capacity(memory=8 * 10**9), []),
        (JobSpec(memory=9 * 10**9), Capacity(memory=8 * 10**9), ["9 GB of memory", "--max-mem"]),
        (JobSpec(disk=2 * 10**9), Capacity(disk=10**9), ["2 GB of disk", "--max-disk"]),
        (JobSpec(gpus=2), Capacity(cpu_only=True), ["2 GPUs asked", "--cpu-only"]),
        (JobSpec(gpus=2), Capacity(cores=1), []),
        (
            JobSpec(cpus=2, disk=2),
            Capacity(cores=1, disk=1),
            ["--max-cores", " and ", "--max-disk"],
        ),
    ],
)
def test_what_can_never_run_is_told_with_the_limit_in_its_way(
    spec: JobSpec, capacity: Capacity, words: list[str]
) -> None:
    text = obstacle(spec, capacity)
    assert bool(text) == bool(words)
    assert all(word in text for word in words)


@pytest.mark.parametrize(
    ("spec", "capacity", "load", "count"),
    [
        (JobSpec(cpus=3), UNLIMITED, Load(cores=10**6), 50),
        (JobSpec(cpus=3), Capacity(cores=10), Load(), 3),
        (JobSpec(cpus=3), Capacity(cores=10), Load(cores=2), 2),
        (JobSpec(cpus=3), Capacity(cores=10), Load(cores=8), 0),
        (JobSpec(cpus=3), Capacity(cores=10), Load(cores=12), 0),
        (JobSpec(memory=0), Capacity(memory=10), Load(memory=10), 50),
        (JobSpec(memory=4, disk=1), Capacity(memory=10, disk=1), Load(), 1),
        (JobSpec(cpus=1), Capacity(cores=100), Load(), 50),
    ],
)
def test_as_many_fit_as_the_tightest_limit_lets(
    spec: JobSpec, capacity: Capacity, load: Load, count: int
) -> None:
    assert fitting(spec, capacity, load, 50) == count


def test_a_load_is_the_sum_of_what_is_asked_for() -> None:
    specs = [JobSpec(cpus=2, memory=5), JobSpec(cpus=1, disk=7)]
    assert load_of(specs) == Load(cores=3, memory=5, disk=7)


@pytest.fixture
def limit(parts: Any) -> Callable[..., None]:
    """Limits from now on, as after a start with other options."""

    def limit(**limits: Any) -> None:
        parts.dispatch = Dispatch(
            *(parts.journal, parts.spool, parts.scheduler, parts.site),
            clock=parts.clock,
            new_id=lambda: f"{next(parts.ids):012x}",
            capacity=Capacity(**limits),
        )

    return limit


def take(parts: Any, *bodies: bytes) -> None:
    for body in bodies:
        parts.pile.put(body)
    parts.intake.drain(1000)


def end_one(parts: Any) -> None:
    e = parts.journal.in_state(State.PENDING)[0]
    parts.scheduler.sightings[e.job_id] = Sighting(
        Verdict.FOUND, JobState.ENDED, reason=Reason.CANCELLED, accounted=True
    )
    parts.track.step()


def test_no_more_is_submitted_at_once_than_the_limit(
    parts: Any, message: Any, limit: Callable[..., None]
) -> None:
    limit(cores=5)
    take(parts, *(message(f"k{number}", cpus=2) for number in range(6)))
    assert parts.dispatch.step() == 2
    assert parts.dispatch.step() == 0
    waiting = parts.journal.in_state(State.ACCEPTED)
    assert [e.key for e in waiting] == ["k2", "k3", "k4", "k5"]
    assert {"--max-cores" in e.pending for e in waiting} == {True}
    assert parts.dispatch.wait() is None  # nothing to do until one ends
    end_one(parts)
    assert parts.dispatch.step() == 1
    assert parts.scheduler.sizes == [2, 1]


def test_what_needs_much_is_not_overtaken_for_ever(
    parts: Any, message: Any, limit: Callable[..., None]
) -> None:
    limit(memory=4 * GIB)
    take(parts, message("small", ram="2GiB"), message("large", ram="4GiB"), message("late"))
    assert parts.dispatch.step() == 1
    assert [e.key for e in parts.journal.in_state(State.ACCEPTED)] == ["large", "late"]
    end_one(parts)
    assert parts.dispatch.step() == 1
    assert [e.key for e in parts.journal.in_state(State.PENDING)] == ["large"]
    end_one(parts)
    assert parts.dispatch.step() == 1


def test_what_alone_exceeds_a_limit_is_set_aside_and_holds_up_nobody(
    parts: Any, message: Any, limit: Callable[..., None]
) -> None:
    limit(disk=10**9)
    take(parts, message("huge", hdd="2g"), message("fine", hdd="1g"))
    assert parts.dispatch.step() == 1
    (huge,) = parts.journal.aside()
    assert (huge.key, huge.state, huge.reason) == ("huge", State.REJECTED, Reason.REJECTED)
    assert "2 GB of disk asked, 1 GB allowed (--max-disk); ask for less" in huge.text


def test_a_limit_lowered_by_a_restart_holds_for_what_waits(
    parts: Any, message: Any, limit: Callable[..., None]
) -> None:
    take(parts, message("a", cpus=4), message("b", cpus=1))
    limit(cores=2)
    assert parts.dispatch.step() == 1
    assert [e.key for e in parts.journal.aside()] == ["a"]


def test_what_runs_beyond_a_lowered_limit_goes_on_and_nothing_is_added(
    parts: Any, message: Any, limit: Callable[..., None]
) -> None:
    take(parts, *(message(f"k{number}") for number in range(4)))
    assert parts.dispatch.step() == 4
    limit(cores=2)
    take(parts, message("late"))
    assert parts.dispatch.step() == 0
    assert parts.journal.count(State.PENDING) == 4
    assert not parts.scheduler.cancelled


def test_a_gateway_takes_no_more_messages_than_it_has_cores_for(login: Any, until: Until) -> None:
    login.publish(*(f"e{number}" for number in range(5)), seconds=600)
    env = {"MAX_CORES": "2", "MAX_MEM": "0gb", "CPU_ONLY": "true"}
    gateway = login.gateway(env=env)
    until(lambda: len(login.runs()) == 2, login.log)
    assert len(login.waiting()) == 3  # left for other gateways
    assert len(login.status()) == 2
    login.let_end()
    until(lambda: len(login.runs("ended")) == 5, login.log)
    gateway.terminate()
    assert gateway.wait(120) == 0, login.log()
