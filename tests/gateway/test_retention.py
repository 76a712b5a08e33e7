"""Retention: what may go, when, in which order, and what a crash in the middle leaves."""

from __future__ import annotations

import itertools
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcrunner.gateway import removal, sweep
from hpcrunner.gateway.collector import Collector, ask, asked
from hpcrunner.gateway.experiment import Experiment, Outcome, State
from hpcrunner.gateway.journal import BatchState, Journal, NextAttempt
from hpcrunner.gateway.retention import (
    KEPT,
    LEAST,
    Ages,
    Trace,
    ages_of,
    fate_of,
    may_blank,
    may_go,
)
from hpcrunner.gateway.spool import Verb
from hpcrunner.gateway.sweep import Kind, Sweep, Tally
from hpcrunner.request.reasons import Reason
from hpcrunner.schedulers.contract import Sighting, Verdict
from hpcrunner.sites.parts import Retention

HOUR, DAY = 3600.0, 86400.0
WON = Outcome(State.SUCCEEDED, Reason.COMPLETED, "ended well", exit_code=0)
FAILED = Outcome(State.FAILED, Reason.PAYLOAD_EXIT, "ended with exit code 3", exit_code=3)
SECRET = b"hush-hush"


# -- the policy, for whatever there may be -------------------------------------------------

# Few values, so that they meet: what is old enough for one age is too young for another.
times = st.sampled_from([0.0, 60.0, 100.0, 1000.0, 5000.0])
some_ages = st.sampled_from([None, 0.0, 60.0, 100.0, 1000.0])
mostly = st.sampled_from([True] * 7 + [False])
traces = st.builds(
    Trace,
    id=st.text("ab", min_size=1),
    final=mostly,
    settled=mostly,
    dead=st.booleans(),
    wished=mostly.map(lambda value: not value),
    present=st.booleans(),
    secret=st.integers(0, 9),
    touched_at=times,
    ended_at=st.none() | times,
)
policies = st.builds(
    Ages,
    secrets=some_ages,
    ended=some_ages,
    dead=some_ages,
    repeat_window=st.sampled_from([0.0, 500.0]),
)


@given(st.lists(traces, max_size=4), policies, times, st.booleans(), times)
def test_nothing_of_a_live_experiment_is_ever_removed(
    members: list[Trace], ages: Ages, now: float, busy: bool, touched_at: float
) -> None:
    fate = fate_of(members, ages, now, busy=busy, touched_at=touched_at)
    if busy or any(not m.final or not m.settled or m.wished for m in members):
        assert fate == KEPT
    for m in members:
        if not m.final or not m.settled or m.wished:
            assert not may_go(m, ages, now)
            assert not may_blank(m, ages, now)


@given(st.lists(traces, min_size=1, max_size=4), policies, times)
def test_a_batch_goes_only_once_each_of_its_experiments_is_old_enough(
    members: list[Trace], ages: Ages, now: float
) -> None:
    fate = fate_of(members, ages, now, busy=False, touched_at=0.0)
    if fate.whole:
        for m in members:
            age = ages.dead if m.dead else ages.ended
            assert age is not None
            assert now - m.touched_at >= max(age, ages.repeat_window, LEAST)
            assert m.ended_at is None or m.ended_at < now - ages.repeat_window
    if fate.plan:
        assert ages.secrets is not None
        assert all(now - m.touched_at >= ages.secrets for m in members)
    assert not any(m.dead or not m.present for m in fate.blank)


@given(st.lists(traces, max_size=4), policies, times, times)
def test_what_may_go_may_still_go_later(
    members: list[Trace], ages: Ages, now: float, more: float
) -> None:
    before = fate_of(members, ages, now, busy=False, touched_at=0.0)
    after = fate_of(members, ages, now + more, busy=False, touched_at=0.0)
    assert (after.whole, after.plan) >= (before.whole, before.plan) or after.whole


@given(st.lists(traces, max_size=4), times)
def test_a_policy_without_limits_removes_nothing(members: list[Trace], now: float) -> None:
    for_ever = Ages(None, None, None, 0.0)
    assert fate_of(members, for_ever, now, busy=False, touched_at=0.0) == KEPT


# -- on a real spool and journal -----------------------------------------------------------


class Crash(BaseException):
    pass


def submitted(parts: Any, message: Callable[..., bytes], count: int, word: str = "e") -> Any:
    """A batch of that many, with what the job side and the scheduler leave in its folder."""
    before = {e.id for e in parts.journal.live()}
    for i in range(count):
        parts.pile.put(message(f"{word}{i}"))
    parts.intake.drain(count)
    parts.dispatch.step()
    found = [e for e in parts.journal.live() if e.id not in before]
    for e in found:
        folder = parts.spool.batch_folder(e.batch)
        for name in (f"claims/{e.task}", f"events/{e.task}", f"records/{e.task}.json"):
            (folder / name).write_text("{}")
        parts.spool.log(e.batch, e.task).write_text("a line of output\n")
    return found


def run_sweep(parts: Any, *, dry: bool = False, **retention: float | None) -> Tally:
    ages = ages_of(Retention(**retention), parts.site.repeat_window)
    one = Sweep(parts.journal, parts.spool, ages, parts.clock, dry=dry)
    for _ in one.run():
        pass
    return one.tally


def numbers(tally: Tally) -> dict[str, int]:
    return {kind.value: count.number for kind, count in tally.counts.items() if count.number}


def everything(parts: Any) -> tuple[list[tuple[str, int, int, int]], list[str]]:
    """The whole spool and the whole journal, to compare."""
    files = []
    for path in sorted(parts.spool.root.rglob("*")):
        status = path.lstat()
        files.append((str(path), status.st_mode, status.st_size, status.st_mtime_ns))
    with sqlite3.connect(f"file:{parts.spool.journal}?mode=ro", uri=True) as db:
        return files, list(db.iterdump())


def left(parts: Any) -> tuple[list[str], int, int]:
    with sqlite3.connect(f"file:{parts.spool.journal}?mode=ro", uri=True) as db:
        rows = [
            db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("experiments", "transitions", "attempts", "batches")
        ]
    return parts.spool.batch_names(), rows[0], sum(rows)


def again(e: Experiment) -> NextAttempt:
    assert e.spec is not None
    return NextAttempt(e, FAILED, replace(e.spec, exclude=("n1",)), 0.0, 0, 1, "once more")


@pytest.fixture
def old(parts: Any, message: Callable[..., bytes]) -> list[Experiment]:
    """Two batches that ended long ago, one with a dead experiment, and one that was refused."""
    one, two = submitted(parts, message, 2), submitted(parts, message, 1, "f")
    parts.journal.end([(e.id, WON) for e in one] + [(e.id, FAILED) for e in two])
    parts.pile.put(b"no request, but hush-hush")
    parts.intake.drain(1)
    parts.clock.forward(100 * DAY)
    return [*one, *two]


@pytest.mark.usefixtures("old")
def test_a_dry_run_changes_nothing(parts: Any, message: Callable[..., bytes]) -> None:
    submitted(parts, message, 2, "live")
    before = everything(parts)
    told = run_sweep(parts, dry=True)
    assert everything(parts) == before
    assert numbers(told) == {"batches": 2, "experiments": 4}
    done = run_sweep(parts)
    assert done.counts == told.counts, "it tells what is then done, to the byte"
    assert everything(parts) != before


@pytest.mark.usefixtures("old")
def test_what_has_aged_out_is_gone_whole_and_the_rest_is_as_it_was(
    parts: Any, message: Callable[..., bytes]
) -> None:
    store = parts.spool.store / "storage" / "results.tar"
    store.parent.mkdir(parents=True)
    store.write_text("a year's work")
    os.utime(store, (0, 0))
    live = submitted(parts, message, 2, "live")
    run_sweep(parts)
    assert parts.spool.batch_names() == [live[0].batch]
    assert sorted(e.id for e in parts.journal.recent(99)) == sorted(e.id for e in live)
    with sqlite3.connect(parts.spool.journal) as db:
        (kept,) = {row[0] for row in db.execute("SELECT id FROM batches")}
        told = {row[0] for row in db.execute("SELECT experiment FROM transitions")}
    assert (kept, told) == (live[0].batch, {e.id for e in live})
    assert store.read_text() == "a year's work"
    assert numbers(run_sweep(parts)) == {}


def test_credentials_of_ended_experiments_go_before_their_logs(
    parts: Any, message: Callable[..., bytes]
) -> None:
    one, two = submitted(parts, message, 2)
    folder = parts.spool.batch_folder(one.batch)
    parts.journal.end([(one.id, WON)])
    parts.clock.forward(2 * DAY)
    assert numbers(run_sweep(parts)) == {}, "the other one still needs the plan"
    parts.journal.end([(two.id, WON)])
    parts.clock.forward(DAY - 1)
    assert numbers(run_sweep(parts)) == {}
    assert SECRET in parts.spool.journal.read_bytes()
    parts.clock.forward(1)
    assert numbers(run_sweep(parts)) == {"plans": 1, "messages": 2}
    assert not (folder / "plan.json").exists()
    assert SECRET not in parts.spool.journal.read_bytes(), "not even in its free pages"
    assert parts.spool.log(one.batch, one.task).read_text() == "a line of output\n"
    assert [e.id for e in parts.journal.recent(9)] == [one.id, two.id]
    parts.clock.forward(29 * DAY)
    assert numbers(run_sweep(parts)) == {"batches": 1, "experiments": 2}


def test_a_dead_experiment_stays_retryable_until_it_ages_out(
    parts: Any, message: Callable[..., bytes]
) -> None:
    one, two = submitted(parts, message, 2)
    parts.journal.end([(one.id, FAILED), (two.id, FAILED)])
    parts.clock.forward(89 * DAY)
    run_sweep(parts)
    assert not (parts.spool.batch_folder(one.batch) / "plan.json").exists()
    parts.spool.wish(Verb.RETRY, [one.id])
    parts.wishes.step()
    (again_,) = parts.journal.live()
    assert parts.journal.message(again_.id) == message("e0")
    parts.dispatch.step()
    assert parts.scheduler.sizes == [2, 1]
    parts.clock.forward(2 * DAY)
    assert numbers(run_sweep(parts)) == {"messages": 1}, "the new one has a message of its own"
    assert parts.journal.message(again_.id) == message("e0")
    parts.clock.forward(30 * DAY)
    assert numbers(run_sweep(parts)) == {"batches": 1, "experiments": 2}
    assert [e.id for e in parts.journal.recent(9)] == [again_.id]


@pytest.mark.usefixtures("old")
def test_what_is_dropped_from_the_dead_list_goes_like_the_rest(parts: Any) -> None:
    parts.journal.drop([e.id for e in parts.journal.aside()])
    parts.clock.forward(DAY)
    found = numbers(run_sweep(parts))
    assert found == {"plans": 1, "messages": 2, "batches": 1, "experiments": 2}


def test_a_batch_stays_whole_while_one_of_its_experiments_lives(
    parts: Any, message: Callable[..., bytes]
) -> None:
    one, *rest = submitted(parts, message, 3)
    parts.journal.end([(e.id, WON) for e in rest])
    before = everything(parts)
    parts.clock.forward(1000 * DAY)
    assert numbers(run_sweep(parts, secrets=0.0, ended=0.0, dead=0.0)) == {}
    assert everything(parts) == before
    assert one.id in {e.id for e in parts.journal.live()}


def test_former_attempts_of_a_live_experiment_keep_their_batch(
    parts: Any, message: Callable[..., bytes]
) -> None:
    (one,) = submitted(parts, message, 1)
    parts.journal.retry([again(one)])
    parts.clock.forward(100 * DAY)
    assert numbers(run_sweep(parts)) == {}
    parts.dispatch.step()
    (now,) = parts.journal.live()
    assert now.batch != one.batch
    parts.journal.end([(one.id, WON)])
    parts.clock.forward(29 * DAY)
    assert numbers(run_sweep(parts)) == {"plans": 2, "messages": 1}
    parts.clock.forward(DAY)
    assert numbers(run_sweep(parts)) == {"batches": 2, "experiments": 1}
    assert left(parts) == ([], 0, 0)


def test_logs_stay_while_reports_of_them_are_due_but_for_a_day_at_most(
    parts: Any, message: Callable[..., bytes]
) -> None:
    told, due = submitted(parts, message, 1), submitted(parts, message, 1, "f")
    with parts.journal._file.write() as db:
        db.execute("UPDATE experiments SET reports = 'due'")
    parts.journal.reported([told[0].id])
    parts.journal.end([(e.id, WON) for e in (*told, *due)])
    parts.clock.forward(parts.site.repeat_window + 1)
    swept = run_sweep(parts, secrets=0.0, ended=0.0, dead=0.0)
    # Credentials are not what reports are made of.
    assert numbers(swept) == {"plans": 1, "messages": 1, "batches": 1, "experiments": 1}
    assert left(parts)[0] == [due[0].batch]
    parts.clock.forward(DAY)
    assert numbers(run_sweep(parts, ended=0.0)) == {"batches": 1, "experiments": 1}


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("verb", Verb)
def test_an_experiment_that_somebody_asks_something_of_is_kept(parts: Any, verb: Verb) -> None:
    parts.spool.wish(verb, [e.id for e in parts.journal.recent(9)])
    assert numbers(run_sweep(parts)) == {}


def test_a_message_that_its_queue_may_send_again_keeps_its_row(
    parts: Any, message: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(parts.journal, "settled", lambda _: None)
        (one,) = submitted(parts, message, 1)
    parts.journal.end([(one.id, WON)])
    parts.clock.forward(100 * DAY)
    assert numbers(run_sweep(parts)) == {}
    parts.journal.settled([one.id])
    assert numbers(run_sweep(parts)) == {"batches": 1, "experiments": 1}


def test_a_copy_of_a_message_is_known_for_as_long_as_the_site_says(
    parts: Any, message: Callable[..., bytes]
) -> None:
    (one,) = submitted(parts, message, 1)
    parts.journal.end([(one.id, WON)])
    parts.clock.forward(parts.site.repeat_window)
    run_sweep(parts, secrets=0.0, ended=0.0)
    parts.pile.put(message("e0"), redelivered=True)
    parts.intake.drain(1)
    assert parts.journal.count_live() == 0, "known, though its message is gone"
    parts.clock.forward(parts.site.repeat_window + 1)
    run_sweep(parts, secrets=0.0, ended=0.0)
    parts.pile.put(message("e0"))
    parts.intake.drain(1)
    assert parts.journal.count_live() == 1


def test_the_clock_of_a_node_decides_nothing(parts: Any, message: Callable[..., bytes]) -> None:
    (one,) = submitted(parts, message, 1)
    parts.journal.end([(one.id, replace(WON, ended_at=0.0))])
    parts.clock.forward(29 * DAY)
    assert numbers(run_sweep(parts)) == {"plans": 1, "messages": 1}


def test_a_batch_that_may_still_be_submitted_is_kept(
    parts: Any, message: Callable[..., bytes]
) -> None:
    (one,) = submitted(parts, message, 1)
    parts.journal.end([(one.id, WON)])
    parts.clock.forward(100 * DAY)
    for state in (BatchState.SUBMITTING, BatchState.READY):
        parts.journal.set_batch(one.batch, state)
        assert numbers(run_sweep(parts)) == {}
    parts.journal.set_batch(one.batch, BatchState.REFUSED)
    assert numbers(run_sweep(parts)) == {"batches": 1, "experiments": 1}


def test_a_job_that_the_local_scheduler_still_has_keeps_its_batch(
    parts: Any, message: Callable[..., bytes]
) -> None:
    (one,) = submitted(parts, message, 1)
    parts.journal.end([(one.id, WON)])
    parts.clock.forward(100 * DAY)
    job = parts.spool.local / "jobs" / f"hpcr-{one.batch}"
    job.mkdir(parents=True)
    assert numbers(run_sweep(parts)) == {}
    ended = parts.spool.local / "ended" / job.name
    ended.parent.mkdir()
    job.rename(ended)
    assert numbers(run_sweep(parts)) == {"batches": 1, "experiments": 1}
    assert not ended.exists()


# -- crashes ---------------------------------------------------------------------------------


def die_at(monkeypatch: pytest.MonkeyPatch, point: str, passes: int) -> None:
    seen: list[str] = []

    def crash(name: str) -> None:
        seen.append(name)
        if name == point and seen.count(name) == passes:
            raise Crash

    monkeypatch.setattr(sweep, "crashpoint", crash)


def die_while_removing(monkeypatch: pytest.MonkeyPatch, entries: int) -> None:
    def crash(path: Path) -> Iterator[int]:
        for number, freed in enumerate(removal.removal(path)):
            if number == entries:
                raise Crash
            yield freed

    monkeypatch.setattr(sweep, "removal", crash)


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize(
    "crash",
    [
        *[("gc.released", n) for n in (1,)],
        *[("gc.removed", n) for n in (1, 2)],
        *[("gc.folders_gone", n) for n in (1, 2)],
        *[("gc.forgotten", n) for n in (1, 2)],
        *[("gc.blanked", n) for n in (1,)],
        *[("gc.plan_removed", n) for n in (1,)],
        *range(12),
    ],
)
def test_a_crash_in_the_middle_of_gc_leaves_a_spool_the_gateway_starts_on(
    parts: Any,
    message: Callable[..., bytes],
    crash: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (young,) = submitted(parts, message, 1, "young")
    parts.journal.end([(young.id, WON)])
    parts.clock.forward(2 * DAY)
    live = submitted(parts, message, 2, "live")
    with monkeypatch.context() as patch:
        if isinstance(crash, int):
            die_while_removing(patch, crash)
        else:
            die_at(patch, *crash)
        with pytest.raises(Crash):
            run_sweep(parts)
    caplog.clear()
    reached = sum(parts.scheduler.reached.values())
    parts.start()
    parts.wishes.step()
    parts.dispatch.step()
    parts.track.step()
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
    assert sum(parts.scheduler.reached.values()) == reached, "nothing is submitted again"
    run_sweep(parts)
    assert parts.spool.batch_names() == sorted({young.batch, live[0].batch})
    assert {e.id for e in parts.journal.recent(99)} == {young.id, *(e.id for e in live)}
    assert len(list(parts.spool.batch_folder(live[0].batch).rglob("*"))) == 6 + 4 * 2


@pytest.mark.usefixtures("old")
def test_a_retry_that_comes_too_late_for_its_folder_runs_nothing_and_stops_nobody(
    parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (dead, _) = parts.journal.aside()
    with monkeypatch.context() as patch:
        die_at(patch, "gc.folders_gone", 1)
        with pytest.raises(Crash):
            run_sweep(parts)
    parts.spool.wish(Verb.RETRY, [dead.id])
    parts.start()
    parts.wishes.step()
    assert parts.journal.count_live() == 0
    run_sweep(parts)
    assert left(parts) == ([], 0, 0)


def test_an_old_journal_that_was_put_back_stops_nobody_where_the_folders_are_gone(
    parts: Any, message: Callable[..., bytes]
) -> None:
    (one,) = submitted(parts, message, 1)
    backup = parts.spool.journal.read_bytes()
    parts.journal.end([(one.id, WON)])
    parts.clock.forward(100 * DAY)
    run_sweep(parts)
    parts.journal.close()
    parts.spool.journal.write_bytes(backup)
    parts.start()
    parts.scheduler.sightings[one.job_id] = Sighting(Verdict.NOT_FOUND)
    for _ in range(10):
        parts.track.step()
        parts.clock.forward(HOUR)
    (found,) = parts.journal.aside()
    assert found.state is State.LOST
    parts.spool.wish(Verb.RETRY, [found.id])
    parts.wishes.step()
    assert len(parts.journal.live()) == 1


# -- folders -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("old")
def test_links_are_removed_and_never_followed(parts: Any, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    (precious / "inner").mkdir(parents=True)
    (precious / "inner" / "thesis").write_text("all of it")
    for batch in parts.spool.batch_names():
        logs = parts.spool.batch_folder(batch) / "logs"
        (logs / "folder").symlink_to(precious)
        (logs / "file").symlink_to(precious / "inner" / "thesis")
        (logs / "nowhere").symlink_to(tmp_path / "nowhere")
    run_sweep(parts)
    assert left(parts) == ([], 0, 0)
    assert (precious / "inner" / "thesis").read_text() == "all of it"


def test_a_folder_that_cannot_be_removed_is_named_once_and_skipped(
    parts: Any, old: list[Experiment], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = tmp_path / "moved"
    folder = parts.spool.batch_folder(old[0].batch)
    folder.rename(moved)
    folder.symlink_to(moved)
    steady = itertools.count(step=10_000)
    collector = Collector(
        parts.journal,
        parts.spool,
        parts.site,
        clock=parts.clock,
        steady=lambda: float(next(steady)),
    )
    for _ in range(300):
        collector.step()
    named = [r for r in caplog.records if str(folder) in r.getMessage()]
    assert len(named) == 1, "many sweeps, one line"
    assert len(list(moved.rglob("*"))) > 5
    assert [e.id for e in parts.journal.recent(9)] == [e.id for e in old[:2]], "others went"


@pytest.mark.usefixtures("old")
def test_a_folder_that_no_row_names_goes_when_nobody_can_wait_for_it(
    parts: Any, message: Callable[..., bytes]
) -> None:
    (live,) = submitted(parts, message, 1, "live")
    for name in ("aa0000000000", "aa0000000001", "aa0000000002"):
        folder = parts.spool.batch_folder(name)
        folder.mkdir()
        (folder / "claims").mkdir()
        (folder / "claims" / "1").write_text("{}")
        for path in (folder / "claims" / "1", folder / "claims", folder):
            os.utime(path, (parts.clock() - 91 * DAY,) * 2)
    plan = (parts.spool.batch_folder(live.batch) / "plan.json").read_bytes()
    waited_for = parts.spool.batch_folder("aa0000000001")
    (waited_for / "plan.json").write_bytes(plan)
    changed = parts.spool.batch_folder("aa0000000002") / "claims" / "1"
    os.utime(changed, (parts.clock() - 89 * DAY,) * 2)
    for path in (waited_for / "plan.json", waited_for):
        os.utime(path, (parts.clock() - 91 * DAY,) * 2)
    assert numbers(run_sweep(parts))["leftovers"] == 1
    there = ["aa0000000001", "aa0000000002", live.batch]
    assert parts.spool.batch_names() == sorted(there)


def test_what_crashed_writes_have_left_goes_after_a_day(parts: Any) -> None:
    spool = parts.spool
    publishing = spool.queue_root / ".publishing" / "local_submit"
    publishing.mkdir(parents=True)
    files = [spool.root / ".drained-ab", publishing / "x", spool.wish_root / ".collect-1"]
    for file in files:
        file.write_text("half")
    job = spool.local / ".hpcr-ab-1"
    job.mkdir(parents=True)
    for path in (*files, job):
        os.utime(path, (parts.clock() - DAY + 60,) * 2)
    assert numbers(run_sweep(parts)) == {}
    parts.clock.forward(120)
    assert numbers(run_sweep(parts)) == {"leftovers": 4}
    assert not any(path.exists() for path in (*files, job))


def test_messages_in_hand_and_in_the_queue_are_never_touched(parts: Any) -> None:
    root = parts.spool.queue_root
    claimed = root / ".hpcrunner-spool" / "local_submit" / "one"
    claimed.parent.mkdir(parents=True)
    waiting = root / "local_submit" / "two"
    for path in (claimed, waiting):
        path.write_text("{}")
        os.utime(path, (0, 0))
    assert numbers(run_sweep(parts, secrets=0.0, ended=0.0, dead=0.0)) == {}
    assert claimed.exists()
    assert waiting.exists()


def test_only_the_newest_gateways_are_remembered(parts: Any) -> None:
    for number in range(3):
        parts.journal.take_over("login1", number)
    parts.clock.forward(31 * DAY)
    run_sweep(parts)
    with sqlite3.connect(parts.spool.journal) as db:
        assert db.execute("SELECT pid FROM gateways").fetchall() == [(2,)]
    parts.journal.settled([])  # and it may still write
    other = Journal(parts.spool.journal, parts.clock)
    other.take_over("login2", 9)
    with pytest.raises(Exception, match="login2"):
        parts.journal.settled([])
    other.close()


# -- a running gateway ---------------------------------------------------------------------


@pytest.mark.usefixtures("old")
def test_a_gateway_collects_in_slices_and_of_itself(parts: Any) -> None:
    now = [0.0]

    def steady() -> float:
        now[0] += 0.05  # what each piece of work takes
        return now[0]

    collector = Collector(parts.journal, parts.spool, parts.site, clock=parts.clock, steady=steady)
    collector.step()
    assert left(parts)[1] == 4, "not in its first minute"
    now[0] += 60
    rounds = 0
    while left(parts)[1]:
        began = now[0]
        collector.step()
        rounds += 1
        assert now[0] - began < 0.5
    assert rounds > 3
    assert left(parts) == ([], 0, 0)


@pytest.mark.usefixtures("old")
def test_a_gateway_that_is_asked_collects_at_once(
    parts: Any, message: Callable[..., bytes]
) -> None:
    (one,) = submitted(parts, message, 1, "new")
    parts.journal.end([(one.id, WON)])
    parts.clock.forward(2 * HOUR)
    collector = Collector(
        parts.journal, parts.spool, parts.site, clock=parts.clock, steady=lambda: 0.0
    )
    ask(parts.spool, HOUR)
    collector.step()
    assert left(parts) == ([], 0, 0)
    assert asked(parts.spool) is None
    (parts.spool.wish_root / "collect").write_text("not a wish")
    collector.step()
    assert asked(parts.spool) is None


@pytest.mark.usefixtures("old")
def test_a_wish_outlives_a_crash_of_who_takes_it_up(
    parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def collector() -> Collector:
        return Collector(
            parts.journal, parts.spool, parts.site, clock=parts.clock, steady=lambda: 0.0
        )

    ask(parts.spool, None)
    with monkeypatch.context() as patch:
        die_at(patch, "gc.removed", 1)
        with pytest.raises(Crash):
            collector().step()
    collector().step()
    assert left(parts) == ([], 0, 0)


def test_every_kind_is_counted(old: list[Experiment], parts: Any) -> None:
    tally = run_sweep(parts, dry=True)
    assert set(tally.counts) == set(Kind)
    assert tally.counts[Kind.BATCHES].size > 500 * len({e.batch for e in old})
    assert tally.words().startswith("2 batches (")
