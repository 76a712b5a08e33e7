"""The soak's judge finds what it is there to find, and its schedule comes from the seed."""

from __future__ import annotations

import itertools
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from soaking.design import Kind, designs
from soaking.evidence import Attempt, Evidence, Line, Transition
from soaking.inject import Injected
from soaking.recovery import recovery
from soaking.schedule import Fault, schedule
from soaking.verdict import Verdict, judge

ENDINGS = {
    Kind.WELL: ("SUCCEEDED", "COMPLETED", 0),
    Kind.STORE: ("SUCCEEDED", "COMPLETED", 0),
    Kind.EXIT: ("FAILED", "PAYLOAD_EXIT", 3),
    Kind.SIGNAL: ("FAILED", "PAYLOAD_SIGNAL", None),
    Kind.MEMORY: ("FAILED", "OUT_OF_MEMORY", None),
    Kind.TIME: ("FAILED", "MAX_DURATION", None),
    Kind.CANCEL: ("CANCELLED", "CANCELLED", None),
}


def row(key: str, kind: Kind, **changes: Any) -> dict[str, Any]:
    state, reason, code = ENDINGS[kind]
    return {
        "key": key,
        "state": state,
        "reason": reason,
        "exit_code": code,
        "attempt": 1,
        "text": "",
        "received_at": 10.0,
        "submitted_at": 20.0,
        "started_at": 25.0,
        "ended_at": 100.0,
        **changes,
    }


def good() -> Evidence:
    """One experiment of each kind, each as it should be; the key is the kind's name."""
    ledger = []
    for kind in Kind:
        ledger.append(Line("start", kind.value, 1, "5_1", "n0", 30.0))
        if kind in (Kind.WELL, Kind.STORE, Kind.EXIT, Kind.SIGNAL):
            ledger.append(Line("end", kind.value, 1, "5_1", "n0", 40.0))
    return Evidence(
        kinds={kind.value: kind for kind in Kind},
        published={kind.value: 5.0 for kind in Kind},
        ledger=ledger,
        told={kind.value: [row(kind.value, kind)] for kind in Kind},
        attempts=[],
        transitions=[],
    )


def fault(what: str, target: str, began: float = 50.0, mended: float = 60.0) -> Injected:
    return Injected(Fault(0.0, what, target, mended - began), began, mended)


def judged(evidence: Evidence, *injected: Injected) -> Verdict:
    return judge(evidence, injected, True)


def told(evidence: Evidence, kind: Kind, **changes: Any) -> Evidence:
    return replace(evidence, told={**evidence.told, kind.value: [row(kind.value, kind, **changes)]})


def without(evidence: Evidence, kind: Kind, word: str) -> Evidence:
    kept = [one for one in evidence.ledger if (one.key, one.word) != (kind.value, word)]
    return replace(evidence, ledger=kept)


def test_every_kind_that_ends_by_its_design_is_well() -> None:
    verdict = judged(good())
    assert verdict.good
    assert (verdict.submitted, verdict.ran) == (len(Kind), len(Kind))


def test_what_has_no_row_is_lost() -> None:
    evidence = good()
    missing = {key: rows for key, rows in evidence.told.items() if key != "well"}
    assert len(judged(replace(evidence, told=missing)).lost) == 1


def test_what_never_ends_is_lost() -> None:
    assert len(judged(told(good(), Kind.WELL, state="RUNNING", reason=None)).lost) == 1


@pytest.mark.parametrize("kind", [Kind.WELL, Kind.EXIT, Kind.TIME, Kind.MEMORY])
def test_what_is_said_to_have_run_and_never_did_is_lost(kind: Kind) -> None:
    assert len(judged(without(good(), kind, "start")).lost) == 1


def test_an_attempt_that_runs_twice_is_doubled() -> None:
    evidence = good()
    twice = [*evidence.ledger, Line("start", "well", 1, "9_1", "n1", 33.0)]
    assert len(judged(replace(evidence, ledger=twice)).doubled) == 1


def test_two_rows_for_one_message_are_doubled() -> None:
    evidence = good()
    rows = {**evidence.told, "well": [*evidence.told["well"]] * 2}
    assert len(judged(replace(evidence, told=rows)).doubled) == 1


@pytest.mark.parametrize("kind", [k for k in Kind if k is not Kind.CANCEL])
def test_another_ending_than_the_designed_one_is_wrong(kind: Kind) -> None:
    assert len(judged(told(good(), kind, state="CANCELLED", reason="CANCELLED")).wrong) == 1
    if kind not in (Kind.WELL, Kind.STORE):
        changed = told(good(), kind, state="SUCCEEDED", reason="COMPLETED", exit_code=0)
        assert len(judged(changed).wrong) == 1


def test_a_success_whose_payload_never_came_to_its_end_is_wrong() -> None:
    assert len(judged(without(good(), Kind.WELL, "end")).wrong) == 1


@pytest.mark.parametrize(
    ("kind", "reason", "one", "true"),
    [
        (Kind.WELL, "NODE_FAIL", fault("node-fail", "slurmd-n0"), True),
        (Kind.WELL, "LOST", fault("kill", "slurmctld"), True),
        (Kind.STORE, "STORE_UNREACHABLE", fault("kill", "s3"), True),
        (Kind.WELL, "STORE_UNREACHABLE", fault("kill", "s3"), False),
        (Kind.WELL, "NODE_FAIL", fault("kill", "rabbitmq"), False),
        (Kind.WELL, "NODE_FAIL", fault("gateway-kill", "gateway"), False),
        (Kind.WELL, "LOST", fault("kill", "slurmdbd"), False),
        (Kind.WELL, "JOB_SIDE_FAULT", fault("node-fail", "slurmd-n0"), False),
        (Kind.WELL, "NODE_FAIL", fault("node-fail", "slurmd-n0", 400.0, 410.0), False),
    ],
)
def test_an_ending_by_the_infrastructure_needs_a_fault_that_explains_it(
    kind: Kind, reason: str, one: Injected, true: bool
) -> None:
    state = "LOST" if reason == "LOST" else "FAILED"
    verdict = judged(told(good(), kind, state=state, reason=reason, exit_code=None), one)
    assert verdict.good is true
    assert sum(verdict.by_infrastructure.values()) == true
    again = Attempt(kind.value, 1, reason, 20.0, 100.0)
    evidence = told(good(), kind, attempt=2)
    second = [replace(line, attempt=2) for line in evidence.ledger if line.key == kind.value]
    ledger = [*evidence.ledger, *second]
    verdict = judged(replace(evidence, ledger=ledger, attempts=[again]), one)
    assert verdict.good is true


def test_an_attempt_that_the_journal_does_not_know_is_wrong() -> None:
    evidence = good()
    later = [*evidence.ledger, Line("start", "well", 2, "9_1", "n1", 33.0)]
    assert len(judged(replace(evidence, ledger=later)).wrong) == 1


def test_time_to_normal_work_counts_from_when_there_was_something_to_do() -> None:
    evidence = good()
    broker = fault("kill", "rabbitmq", 1.0, 4.0)
    assert recovery(broker, evidence) == 5.0, "published at 5, taken at 10"
    assert recovery(fault("kill", "rabbitmq", 1.0, 8.0), evidence) == 2.0
    assert recovery(fault("kill", "rabbitmq", 1.0, 11.0), evidence) is None
    assert recovery(fault("node-fail", "slurmd-n0", 1.0, 28.0), evidence) == 2.0
    assert recovery(fault("node-fail", "slurmd-n1", 1.0, 28.0), evidence) is None
    seen = replace(evidence, transitions=[Transition("well", 70.0, "RUNNING")])
    assert recovery(fault("kill", "slurmctld"), seen) == 10.0
    assert recovery(fault("kill", "slurmdbd"), seen) is None


def test_a_seed_is_a_schedule_and_no_server_is_hit_while_it_is_away() -> None:
    faults = schedule(60, 25.0, random.Random(7))
    assert faults == schedule(60, 25.0, random.Random(7))
    assert faults != schedule(60, 25.0, random.Random(8))
    assert len(faults) == 60
    assert len({one.name for one in faults}) == 9
    for target in {one.target for one in faults}:
        times = [(one.at, one.at + one.down) for one in faults if one.target == target]
        assert all(end < at for (_, end), (at, _) in itertools.pairwise(times))
    assert all(0 < one.at < 60 * 25.0 * 2 for one in faults)


def test_designs_are_as_many_as_wanted_and_hold_every_kind() -> None:
    plan = designs(100, 7, random.Random(7))
    assert len(plan) == 100
    assert {one.kind for one in plan} == set(Kind)
    assert [one.burst for one in plan] == sorted(one.burst for one in plan)
    assert plan == designs(100, 7, random.Random(7))
