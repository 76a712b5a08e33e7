"""Who may work on a spool: one at a time, on file systems with good locks and with bad ones."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcrunner.gateway.holder import Holder, read_holder, this_process
from hpcrunner.gateway.lock import (
    LEASE,
    Contender,
    SpoolBusy,
    SpoolLock,
    SpoolLost,
    holder_of,
    wait_for_lock,
)
from hpcrunner.gateway.spool import SpoolError

AWAY = Holder("login2", 4711, "2026-01-01T00:00:00+0000", "another-boot:4026531836:99")


class Steady:
    """A steady clock, moved by hand; also a sleep."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.lock"


@pytest.fixture
def held(path: Path) -> Iterator[Callable[..., SpoolLock]]:
    """A lock that stays until the test ends."""
    locks: list[SpoolLock] = []

    def take(**how: object) -> SpoolLock:
        lock = Contender(path, **how).try_take()  # type: ignore[arg-type]
        assert lock is not None
        locks.append(lock)
        return lock

    yield take
    for lock in locks:
        lock.close()


def left_behind(path: Path, holder: Holder = AWAY, beat: int = 1) -> None:
    """The line of a holder whose flock we do not see."""
    path.write_bytes(holder.line(beat))


HOLD = """
import signal, sys, time
from pathlib import Path
from hpcrunner.gateway.lock import Contender, SpoolLost
from hpcrunner.gateway.holder import Holder
how = {}
if sys.argv[2] == "elsewhere":  # another machine, on a mount whose locks are its own
    me = Holder("login2", 1, "then", "boot:1:2")
    how = dict(me=me, flock=lambda handle, kind: None, beat=0.05)
lock = Contender(Path(sys.argv[1]), **how).try_take()
print("held" if lock else "busy", flush=True)
while lock:
    time.sleep(0.02)
    try:
        lock.check()
    except SpoolLost as error:
        print(error.line(), flush=True)
        sys.exit(error.exit_code)
"""


@pytest.fixture
def other(path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Another process that holds the lock."""
    started: list[subprocess.Popen[str]] = []

    def start(where: str = "here") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path), where], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_living_holder_is_named_with_host_process_and_time(
    path: Path, other: Callable[..., subprocess.Popen[str]]
) -> None:
    process = other()
    with pytest.raises(SpoolBusy, match=rf"host \S+ pid {process.pid} since 20\d\d-") as caught:
        wait_for_lock(Contender(path), time.sleep, patience=0.0)
    assert caught.value.exit_code == 75
    assert f"pid {process.pid} since" in (holder_of(path) or "")


def test_a_stopped_process_still_holds_and_a_killed_one_does_not(
    path: Path, other: Callable[..., subprocess.Popen[str]]
) -> None:
    process = other()
    process.send_signal(signal.SIGSTOP)
    steady = Steady()
    contender = Contender(path, clock=steady)
    for _ in range(300):
        assert contender.try_take() is None
        steady.pause(1.0)
    process.kill()
    process.wait()
    assert holder_of(path) is None
    lock = Contender(path).try_take()  # another one, who saw nothing of all that
    assert lock is not None
    lock.close()


def test_whoever_only_looks_neither_takes_nor_changes_the_lock(
    path: Path, held: Callable[..., SpoolLock]
) -> None:
    assert holder_of(path) is None
    assert not path.exists()
    left_behind(path)
    assert (
        holder_of(path) == "host login2 pid 4711 since 2026-01-01T00:00:00+0000, if it still lives"
    )
    assert path.read_bytes() == AWAY.line(1)
    path.unlink()
    held()
    before = path.read_bytes()
    holder_of(path)
    assert path.read_bytes() == before


def test_a_lock_let_go_leaves_an_empty_file_that_anybody_may_take(
    path: Path, held: Callable[..., SpoolLock]
) -> None:
    held().close()
    assert path.read_bytes() == b""
    held(me=AWAY).close()
    held()


def test_a_holder_whose_flock_nobody_sees_keeps_the_lock_as_long_as_it_beats(path: Path) -> None:
    steady = Steady()
    contender = Contender(path, clock=steady)
    for second in range(1000):
        if second % 50 == 0:  # now and then a beat comes late, but within the lease
            left_behind(path, beat=second)
        assert contender.try_take() is None
        steady.pause(1.0)


def test_a_silent_holder_elsewhere_is_dead_after_a_lease_of_watching(path: Path) -> None:
    left_behind(path)
    steady = Steady()
    contender = Contender(path, clock=steady)
    while (lock := contender.try_take()) is None:
        steady.pause(1.0)
        assert steady.now < LEASE + 5
    assert steady.now >= LEASE
    lock.close()


def test_time_in_which_nobody_looked_is_no_silence(path: Path) -> None:
    left_behind(path)
    steady = Steady()
    contender = Contender(path, clock=steady)
    assert contender.try_take() is None
    steady.pause(3600.0)  # the file server was away, or this process was stopped
    assert contender.try_take() is None
    assert contender.try_take() is None


def test_a_clock_of_another_node_plays_no_part(path: Path) -> None:
    left_behind(path)
    os.utime(path, (1.0, 1.0))
    assert Contender(path).try_take() is None
    os.utime(path, (4e9, 4e9))
    assert Contender(path).try_take() is None


def test_once_its_flock_was_seen_to_hold_its_end_is_known_at_once(path: Path) -> None:
    left_behind(path)
    handle = os.open(path, os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    steady = Steady()
    contender = Contender(path, clock=steady)
    for _ in range(3):
        assert contender.try_take() is None
        assert contender.lives
        steady.pause(1.0)
    os.close(handle)
    lock = contender.try_take()
    assert lock is not None
    lock.close()


def test_the_flock_of_one_holder_tells_nothing_of_the_next(path: Path) -> None:
    left_behind(path)
    handle = os.open(path, os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    steady = Steady()
    contender = Contender(path, clock=steady)
    for _ in range(3):
        contender.try_take()
        steady.pause(1.0)
    os.close(handle)
    left_behind(path, Holder("login3", 12, "later", "boot:1:1"))
    assert contender.try_take() is None


def test_where_flock_has_no_effect_a_real_living_holder_is_left_alone_and_a_stopped_one_superseded(
    path: Path, other: Callable[..., subprocess.Popen[str]]
) -> None:
    process = other("elsewhere")
    steady = Steady()
    contender = Contender(path, clock=steady)
    beat, end = 0, time.monotonic() + 120
    while steady.now < 3 * LEASE:
        while (holder := read_holder(path.read_text())) is None or holder.beat == beat:
            assert time.monotonic() < end
            time.sleep(0.01)
        beat = holder.beat
        assert contender.try_take() is None
        steady.pause(5.0)
    process.send_signal(signal.SIGSTOP)
    while (lock := contender.try_take()) is None:
        assert steady.now < 5 * LEASE
        steady.pause(5.0)
    mine = path.read_bytes()
    process.send_signal(signal.SIGCONT)
    assert process.wait(120) == 75
    assert process.stdout is not None
    (said,) = process.stdout.read().splitlines()
    assert re.search(rf"was taken over by host \S+ pid {os.getpid()} ", said)
    lock.check()
    assert path.read_bytes() == mine
    lock.close()


def test_two_lock_files_are_no_lock_and_the_holder_of_the_old_one_stops(
    path: Path, held: Callable[..., SpoolLock]
) -> None:
    lock = held()
    lock.check()
    moved = path.with_name("aside")
    path.rename(moved)
    with pytest.raises(SpoolLost, match="removed"):
        lock.check()
    path.touch()
    with pytest.raises(SpoolLost, match="replaced") as caught:
        lock.check()
    assert caught.value.exit_code == 75
    path.unlink()
    moved.rename(path)
    lock.check()


def test_one_that_was_superseded_does_not_wipe_its_successors_line(
    path: Path, held: Callable[..., SpoolLock]
) -> None:
    lock = held(beat=0.01)
    os.pwrite(os.open(path, os.O_WRONLY), AWAY.line(3), 0)
    with pytest.raises(SpoolLost, match="login2"):
        lock.check()
    time.sleep(0.1)
    lock.close()
    assert path.read_bytes().startswith(AWAY.line(3))


def test_a_holder_beats_by_itself(path: Path, held: Callable[..., SpoolLock]) -> None:
    held(beat=0.01)
    first = read_holder(path.read_text())
    assert first is not None
    end = time.monotonic() + 30
    while (now := read_holder(path.read_text())) is None or now.beat <= first.beat:
        assert time.monotonic() < end
    assert now.same_as(first)


def test_a_gateway_watches_one_that_may_live_and_goes_on_when_it_is_silent(path: Path) -> None:
    left_behind(path)
    steady = Steady()
    lock = wait_for_lock(Contender(path, clock=steady), steady.pause, watch=True, clock=steady)
    assert lock is not None
    assert steady.now >= LEASE
    lock.close()


def test_a_gateway_that_watches_is_refused_at_the_first_sign_of_life(path: Path) -> None:
    left_behind(path)
    steady = Steady()

    def pause(seconds: float) -> None:
        steady.pause(seconds)
        left_behind(path, beat=1 + int(steady.now / 10))

    with pytest.raises(SpoolBusy, match="already runs here"):
        wait_for_lock(Contender(path, clock=steady), pause, watch=True, clock=steady)
    assert 10 <= steady.now < 20


def test_by_hand_nobody_waits_for_one_that_may_live(path: Path) -> None:
    left_behind(path)
    steady = Steady()
    with pytest.raises(SpoolBusy, match="may still run here"):
        wait_for_lock(Contender(path, clock=steady), steady.pause, patience=2.0, clock=steady)
    assert steady.now < 5


def test_a_standby_waits_as_long_as_it_takes_or_until_it_is_told_to_end(
    path: Path, held: Callable[..., SpoolLock]
) -> None:
    held()
    steady = Steady()
    assert (
        wait_for_lock(
            Contender(path, clock=steady),
            steady.pause,
            lambda: steady.now < 10 * LEASE,
            standby=True,
            clock=steady,
        )
        is None
    )


def test_a_process_of_this_machine_is_known_dead_by_the_process_table(path: Path) -> None:
    me = this_process()
    assert not me.surely_dead()
    boot, namespace, born = me.life.split(":")
    gone = Holder(me.host, me.pid, me.since, f"{boot}:{namespace}:{int(born) + 1}")
    assert gone.surely_dead()
    for life in (f"other:{namespace}:1", f"{boot}:1:1", "", "x", f"{boot}:{namespace}:soon"):
        assert not Holder("h", 2**22, "t", life).surely_dead(), life


def test_a_file_system_without_locks_is_refused_with_a_remedy(path: Path) -> None:
    def none_here(handle: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    with pytest.raises(SpoolError, match=r"No locks available.*flock"):
        Contender(path, flock=none_here).try_take()


@given(st.text())
def test_any_line_that_is_not_blank_is_somebodys(text: str) -> None:
    assert (read_holder(text) is None) == (not text.split())


def test_a_line_reads_back_and_keeps_its_length(path: Path) -> None:
    for beat in (1, 10**6, 10**10 - 1):
        found = read_holder(AWAY.line(beat).decode())
        assert found is not None
        assert found.same_as(AWAY)
        assert found.beat == beat
        assert len(AWAY.line(beat)) == len(AWAY.line(0))


def test_a_line_of_an_older_version_is_watched_like_one_of_another_machine(path: Path) -> None:
    path.write_text("host login1 pid 12\n")
    assert Contender(path).try_take() is None
