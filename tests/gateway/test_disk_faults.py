"""Disks that are full, read-only, closed to us, damaged: a pause or a clear stop, never a loss."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import sqlite3
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.gateway.dispatch import Dispatch
from hpcrunner.gateway.experiment import State
from hpcrunner.gateway.gateway import Ended, Gateway, Hold
from hpcrunner.gateway.intake import Intake
from hpcrunner.gateway.journal import Journal
from hpcrunner.gateway.lock import Contender
from hpcrunner.gateway.orders import Orders
from hpcrunner.gateway.spool import Spool, SpoolError
from hpcrunner.gateway.track import Track
from hpcrunner.gateway.wishes import Wishes
from hpcrunner.queues.claims import Claim, Claims
from hpcrunner.queues.directory import DirectorySource
from hpcrunner.queues.matching import DEFAULT_MATCH, QueueFilter

Until = Callable[..., Any]
NOBODY = 65534
_BLOCK = 4096


def names(count: int) -> list[str]:
    return [f"e{i}" for i in range(count)]


def mounted(folder: Path, *words: str) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    done = subprocess.run(["mount", *words, str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    folder.chmod(0o700)
    return folder


@pytest.fixture
def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a file system of its own")


@pytest.fixture
def disk(needs_root: None, tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    """Fill a disk but for ``leave`` bytes; removing the returned file makes room again."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(_BLOCK))
        except OSError as error:
            assert error.errno == errno.ENOSPC
    os.truncate(filler, max(0, filler.stat().st_size - leave))
    return filler


def lines(login: Any, word: str) -> int:
    return sum(word in line for line in login.log().splitlines())


# -- real gateways on real file systems -----------------------------------------------------------


def test_a_full_disk_is_waited_for_and_loses_and_doubles_nothing(
    login_on: Any, disk: Path, tmp_path: Path, until: Until
) -> None:
    login = login_on(tmp_path / "home", disk / "spool")
    gateway = login.gateway()
    login.publish("before")
    until(lambda: login.states() == {"SUCCEEDED": 1}, login.log)
    filler = fill(disk)
    login.publish(*names(5))
    until(lambda: lines(login, "waiting for it") == 1, login.log)
    until(lambda: len(login.waiting()) == 5, login.log)  # handed back, for others to take
    time.sleep(3)  # several tries
    assert lines(login, "waiting for it") == 1
    assert gateway.poll() is None
    filler.unlink()
    until(lambda: login.states() == {"SUCCEEDED": 6}, login.log)
    assert login.runs() == dict.fromkeys(["before", *names(5)], 1)
    assert lines(login, "can be used again") >= 1
    gateway.terminate()
    assert gateway.wait(120) == 0


def test_a_gateway_killed_on_a_full_disk_loses_nothing(
    login_on: Any, disk: Path, tmp_path: Path, until: Until
) -> None:
    login = login_on(tmp_path / "home", disk / "spool")
    gateway = login.gateway()
    filler = fill(disk)
    login.publish(*names(5))
    until(lambda: lines(login, "waiting for it"), login.log)
    gateway.kill()
    gateway.wait()
    filler.unlink()
    assert login.gateway("--limit-tasks", "5").wait(120) == 0, login.log()
    assert login.runs() == dict.fromkeys(names(5), 1)


def test_a_start_on_a_full_disk_is_one_line_and_a_code(
    login_on: Any, disk: Path, tmp_path: Path
) -> None:
    login = login_on(tmp_path / "home", disk / "spool")
    fill(disk)
    _, err = login.run("gateway", code=73)
    assert "No space left on device" in err
    assert len(err.splitlines()) == 1


def test_a_quota_is_met_like_a_full_disk(login: Any, until: Until) -> None:
    """RLIMIT_FSIZE stands in for a quota: it too fails writes otherwise than for want of room."""
    gateway = login.gateway()
    login.publish("before")
    until(lambda: login.states() == {"SUCCEEDED": 1}, login.log)
    most = (login.spool / "journal.db").stat().st_size
    before = resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (most, before[1]))
    login.publish(*(f"{name}{'x' * 3000}" for name in names(40)))
    until(lambda: lines(login, "waiting for it"), login.log)
    assert gateway.poll() is None
    resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, before)
    until(lambda: login.states() == {"SUCCEEDED": 41}, login.log)
    assert set(login.runs().values()) == {1}
    assert len(login.runs()) == 41
    gateway.terminate()
    assert gateway.wait(120) == 0


def test_a_file_system_that_turns_read_only_pauses_the_gateway_and_loses_nothing(
    needs_root: None, login_on: Any, tmp_path: Path, until: Until
) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(32 * 1024 * 1024)
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("no mkfs.ext4")
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    disk = mounted(tmp_path / "disk", "-o", "loop", str(image))
    try:
        login = login_on(tmp_path / "home", disk / "spool")
        gateway = login.gateway()
        login.publish("before")
        until(lambda: login.states() == {"SUCCEEDED": 1}, login.log)
        # What ext4 does of itself after an I/O error, with the gateway's files open.
        subprocess.run(["mount", "-o", "remount,abort", str(disk)], check=True)
        login.publish(*names(3))
        until(lambda: lines(login, "waiting for it"), login.log)
        until(lambda: len(login.waiting()) == 3, login.log)
        assert gateway.poll() is None
        gateway.terminate()
        assert gateway.wait(120) == 0, login.log()
        # Not before the local scheduler's daemon has let go of it too.
        until(lambda: subprocess.run(["umount", str(disk)]).returncode == 0)
        subprocess.run(["e2fsck", "-fy", str(image)], capture_output=True)
        # The loop device of that file may live on for a moment, and would be taken again as it is.
        mended = shutil.copyfile(image, tmp_path / "mended")
        mounted(disk, "-o", "loop", str(mended))
        assert login.gateway("--limit-tasks", "3").wait(120) == 0, login.log()
        assert login.runs() == dict.fromkeys(["before", *names(3)], 1)
    finally:
        subprocess.run(["umount", "-l", str(disk)])


def test_a_spool_closed_while_the_gateway_runs_is_waited_for(
    needs_root: None, login_on: Any, until: Until
) -> None:
    # Not below pytest's own folder, which nobody else may enter.
    home = Path(tempfile.mkdtemp(prefix="hpcrunner-test-", dir="/var/tmp"))
    home.chmod(0o755)
    try:
        login = login_on(home, home / "spool", NOBODY)
        gateway = login.gateway()
        login.publish("before")
        until(lambda: login.runs("ended")["before"], login.log)
        login.spool.chmod(0)
        login.publish("after")
        until(lambda: lines(login, "waiting for it") == 1, login.log)
        assert "Permission denied" in login.log() or "unable to open" in login.log()
        login.spool.chmod(0o700)
        until(lambda: login.runs("ended")["after"], login.log)
        gateway.terminate()
        assert gateway.wait(120) == 0
        login.spool.chmod(0o500)
        _, err = login.run("gateway", code=73)
        assert "cannot be written" in err
        assert len(err.splitlines()) == 1
        login.spool.chmod(0o750)
        _, err = login.run("gateway", code=73)
        assert "0750" in err
        assert f"chmod 700 {login.spool}" in err
        login.close()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def test_a_journal_that_another_program_locks_is_waited_for(login: Any, until: Until) -> None:
    gateway = login.gateway()
    other = sqlite3.connect(login.spool / "journal.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    login.publish(*names(3))
    until(lambda: lines(login, "waiting for it") == 1, login.log)
    assert "database is locked" in login.log()
    assert gateway.poll() is None
    other.execute("ROLLBACK")
    other.close()
    until(lambda: login.states() == {"SUCCEEDED": 3}, login.log)
    assert login.runs() == dict.fromkeys(names(3), 1)
    gateway.terminate()
    assert gateway.wait(120) == 0


def damage_one(journal: Path, table: str) -> None:
    """Overwrite one page: the root of a table."""
    db = sqlite3.connect(journal)
    (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    db.close()
    with journal.open("r+b") as file:
        file.seek((page - 1) * _BLOCK)
        file.write(b"\xa5" * _BLOCK)


def damage(journal: Path, *, header: bool = False) -> None:
    """Overwrite pages in the middle of the file, and with ``header`` its first bytes."""
    size = journal.stat().st_size
    with journal.open("r+b") as file:
        file.seek(size // _BLOCK // 4 * _BLOCK)
        file.write(b"\xa5" * (size // _BLOCK // 2) * _BLOCK)
        if header:
            file.seek(0)
            file.write(b"\xa5" * 100)


@pytest.mark.parametrize(
    "harm",
    [
        damage,
        # Nothing at a start reads this one by itself.
        lambda journal: damage_one(journal, "transitions"),
        lambda journal: journal.write_bytes(b"no journal at all" * 1000),
        lambda journal: os.truncate(journal, journal.stat().st_size // 2),
    ],
    ids=["half", "one page", "another file", "cut"],
)
def test_a_damaged_journal_stops_a_start_with_its_name_and_what_to_do(
    login: Any, harm: Callable[[Path], None]
) -> None:
    login.publish(*names(5))
    assert login.gateway("--limit-tasks", "5").wait(120) == 0
    harm(login.spool / "journal.db")
    before = (login.spool / "journal.db").read_bytes()
    login.publish("later")
    _, err = login.run("gateway", code=65)
    (line,) = [line for line in err.splitlines() if line.startswith("hpcrunner:")]
    assert str(login.spool / "journal.db") in line
    assert "docs/operating.md" in line
    assert (login.spool / "journal.db").read_bytes() == before  # as it was, for whoever mends it
    assert len(login.waiting()) == 1
    assert (login.spool / "gateway.lock").read_bytes() == b""


def test_a_journal_damaged_under_a_running_gateway_stops_it(login: Any) -> None:
    gateway = login.gateway()
    damage(login.spool / "journal.db", header=True)
    login.publish("later")
    assert gateway.wait(120) == 65, login.log()
    (line,) = [line for line in login.log().splitlines() if line.startswith("hpcrunner:")]
    assert str(login.spool / "journal.db") in line
    assert len(login.waiting()) == 1


def test_a_journal_moved_away_leaves_the_jobs_and_their_folders_alone(
    login: Any, until: Until
) -> None:
    gateway = login.gateway()
    login.publish("long", seconds=600)
    until(lambda: login.runs()["long"], login.log)
    gateway.terminate()
    assert gateway.wait(120) == 0
    (login.spool / "journal.db").rename(login.folder / "journal.db")
    gateway = login.gateway()
    login.publish("new")
    until(lambda: login.runs("ended")["new"], login.log)
    assert lines(login, "unknown to the journal") == 1
    login.let_end()
    until(lambda: login.runs("ended")["long"], login.log)
    assert len(list(login.spool.glob("batches/*/records/*.json"))) == 2 or until(
        lambda: len(list(login.spool.glob("batches/*/records/*.json"))) == 2
    )
    gateway.terminate()
    assert gateway.wait(120) == 0


# -- every place at which the room can end --------------------------------------------------------


class Patient(Orders):
    """Orders whose pauses move the clock, and make room or end when their time has come."""

    def __init__(self, forward: Callable[[float], None], room: Callable[[], None]) -> None:
        super().__init__()
        self._forward = forward
        self._room = room
        self.pauses = 0

    def pause(self, seconds: float) -> None:
        self._forward(seconds)
        self.pauses += 1
        if self.pauses == 4:
            self._room()
        if self.pauses == 12:
            self.end()


@pytest.mark.parametrize("leave", range(0, 49 * _BLOCK, 3 * _BLOCK))
def test_wherever_the_room_ends_each_experiment_is_submitted_once(
    parts: Any, disk: Path, message: Any, leave: int
) -> None:
    spool = Spool(disk / "spool")
    spool.prepare()
    lock = Contender(spool.lock).try_take()
    assert lock is not None
    journal = Journal(spool.journal, parts.clock)
    common = {"clock": parts.clock, "new_id": lambda: f"{next(parts.ids):012x}"}
    scheduler = parts.scheduler
    gateway = Gateway(
        Hold(spool, lock, journal),
        intake=Intake([parts.pile], journal, parts.site, **common),
        dispatch=Dispatch(journal, spool, scheduler, parts.site, **common),
        track=Track(journal, spool, scheduler, parts.site, clock=parts.clock),
        wishes=Wishes(journal, spool, scheduler, parts.site, **common),
        max_jobs=1000,
        clock=parts.clock,
    )
    filler = fill(disk, leave)
    count = 12
    held: list[Any] = []
    take, close = parts.pile.take, parts.pile.close

    def taken(most: int) -> list[Any]:
        held[:] = take(most)
        return list(held)

    def rested() -> None:
        """What a real source does with what was taken and not settled."""
        parts.pile.give_back([d for d in held if d not in parts.pile.accepted])
        held.clear()
        close()

    parts.pile.take, parts.pile.close = taken, rested
    for number in range(count):
        # Two shapes, so two batches.
        parts.pile.put(message(f"k{number}" + "x" * 1000, cpus=1 + number % 2))
    orders = Patient(parts.clock.forward, filler.unlink)
    assert gateway.run(orders) is Ended.DRAINED
    assert journal.count(State.PENDING, State.SUBMITTING) == count
    assert sorted(e.key[: e.key.index("x")] for e in journal.live()) == sorted(
        f"k{n}" for n in range(count)
    )
    submitted = [e.batch for e in journal.in_state(State.PENDING)]
    assert all(scheduler.reached[batch] == 1 for batch in submitted)
    assert max(scheduler.reached.values(), default=1) == 1
    assert len(spool.batch_names()) == len({e.batch for e in journal.live()})
    journal.close()
    lock.close()


def test_a_batch_that_could_not_be_written_leaves_nothing_behind(
    parts: Any, message: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    parts.pile.put(message("a"))
    parts.intake.drain(10)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for _ in range(3):
            with pytest.raises(SpoolError, match="quota"):
                parts.dispatch.step()
    assert parts.spool.batch_names() == []
    assert parts.dispatch.step() == 1


def test_messages_that_could_not_be_handed_back_are_found_again_by_the_same_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = tmp_path / "local_q"
    queue.mkdir()
    (queue / "m").write_bytes(b"x")
    os.utime(queue / "m", (1, 1))
    source = DirectorySource(tmp_path, QueueFilter(DEFAULT_MATCH, ""), "me")
    assert len(source.take(5)) == 1

    def read_only(self: Claims, claim: Claim) -> bool:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(Claims, "give_back", read_only)
        source.close()
    (again,) = source.take(5)
    assert again.body == b"x"
    assert again.redelivered


def test_what_the_gateway_leaves_in_its_spool_is_the_users_alone(login: Any) -> None:
    login.publish("one")
    assert login.gateway("--limit-tasks", "1").wait(120) == 0
    login.run("drain")
    for path in login.spool.rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
