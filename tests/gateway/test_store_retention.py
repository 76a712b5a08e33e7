"""Retention of the spool's own file store: whose results and code may go, and whose never."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.client.build import Work
from hpcrunner.client.publish import publish, store_work
from hpcrunner.gateway import removal, storesweep, sweep
from hpcrunner.gateway.experiment import Experiment, Outcome, State
from hpcrunner.gateway.retention import ages_of
from hpcrunner.gateway.sweep import Sweep
from hpcrunner.request.reasons import Reason
from hpcrunner.sites.parts import Retention

DAY = 86400.0
WON = Outcome(State.SUCCEEDED, Reason.COMPLETED, "ended well", exit_code=0)
FAILED = Outcome(State.FAILED, Reason.PAYLOAD_EXIT, "ended with exit code 3", exit_code=3)


class Crash(BaseException):
    pass


def run_sweep(parts: Any, *, dry: bool = False, **retention: Any) -> dict[str, int]:
    ages = ages_of(Retention(**{"store": 100 * DAY, **retention}), parts.site.repeat_window)
    one = Sweep(parts.journal, parts.spool, ages, parts.clock, dry=dry)
    for _ in one.run():
        pass
    assert one.tally.skipped == {}
    return {kind.value: count.number for kind, count in one.tally.counts.items() if count.number}


def files(store: Path) -> list[str]:
    return sorted(str(p.relative_to(store)) for p in store.rglob("*") if p.is_file())


def age_all(parts: Any) -> None:
    """All in the store is from now, by the clock of these tests."""
    for path in parts.spool.store.rglob("*"):
        os.utime(path, (parts.clock(), parts.clock()))


@pytest.fixture
def submit(parts: Any, tmp_path: Path) -> Callable[..., bytes]:
    """Work of that code as ``hpcrunner submit`` hands it in, but for the queue."""

    def submit(code: str = "print()") -> bytes:
        folder = tmp_path / "code"
        folder.mkdir(exist_ok=True)
        (folder / "train.py").write_text(code)
        os.utime(folder / "train.py", (0, 0))
        _, body = store_work(Work("train.py"), folder, parts.spool.store)
        return body

    return submit


def taken(parts: Any, body: bytes) -> Experiment:
    parts.pile.put(body)
    parts.intake.drain(1)
    parts.dispatch.step()
    (found,) = parts.journal.live()
    return found


def ran(parts: Any, body: bytes, outcome: Outcome = WON) -> str:
    """Run it to its end, with results; returns its key."""
    e = taken(parts, body)
    results = parts.spool.store / "storage" / "experiments" / e.key
    results.mkdir(parents=True)
    (results / "modeldir.tar").write_text("weights")
    parts.journal.end([(e.id, outcome)])
    return e.key


def test_results_and_code_go_together_once_nobody_knows_them_any_more(
    parts: Any, submit: Callable[..., bytes]
) -> None:
    ran(parts, submit())
    mine = parts.spool.store / "storage" / "experiments" / "of-my-own" / "kept.tar"
    mine.parent.mkdir()
    mine.write_text("nothing that a client names so")
    age_all(parts)
    parts.clock.forward(99 * DAY)
    run_sweep(parts)
    young = ran(parts, submit("print(2)"))
    for name in files(parts.spool.store):
        if young in name or name == newest_archive(parts):
            os.utime(parts.spool.store / name, (parts.clock(),) * 2)
    parts.clock.forward(2 * DAY)
    assert run_sweep(parts, store=None) == {"messages": 1, "plans": 1}
    before = files(parts.spool.store)
    assert run_sweep(parts, dry=True) == {"results": 2, "archives": 1}
    assert files(parts.spool.store) == before
    assert run_sweep(parts) == {"results": 2, "archives": 1}
    left = files(parts.spool.store)
    assert mine.read_text().startswith("nothing")
    assert len(left) == 4
    assert sum(young in name for name in left) == 2


def test_a_dry_run_counts_what_goes_because_something_else_would_be_gone(
    parts: Any, submit: Callable[..., bytes]
) -> None:
    ran(parts, submit("print('forgotten by now')"))
    parts.clock.forward(20 * DAY)
    ran(parts, submit("print('known, but without its message')"))
    age_all(parts)
    parts.clock.forward(15 * DAY)
    before = files(parts.spool.store)
    told = run_sweep(parts, dry=True, store=10 * DAY, ended=30 * DAY)
    assert (told["experiments"], told["messages"]) == (1, 1)
    assert (told["results"], told["archives"]) == (2, 2), "a folder, a record; both codes"
    assert files(parts.spool.store) == before
    assert run_sweep(parts, store=10 * DAY, ended=30 * DAY) == told


def newest_archive(parts: Any) -> str:
    blobs = (parts.spool.store / "storage" / "blobstore").glob("*.tar")
    newest = max(blobs, key=lambda path: path.stat().st_ctime_ns)
    return str(newest.relative_to(parts.spool.store))


def test_what_is_on_its_way_or_may_be_run_again_keeps_its_code_and_its_record(
    parts: Any, submit: Callable[..., bytes]
) -> None:
    root = parts.spool.queue_root
    publish(root / "local_submit", submit("print('waits')"))
    publish(root / ".hpcrunner-spool" / "local_submit", submit("print('is in hand')"))
    ran(parts, submit("print('failed')"), FAILED)
    taken(parts, submit("print('lives')"))
    age_all(parts)
    before = files(parts.spool.store)
    parts.clock.forward(1000 * DAY)
    assert run_sweep(parts, ended=0.0, dead="UNLIMITED") == {"plans": 1}
    assert files(parts.spool.store) == before


def test_nothing_goes_while_a_message_cannot_be_read_and_the_sweep_goes_on(
    parts: Any, submit: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ran(parts, submit())
    age_all(parts)
    unread = parts.spool.queue_root / "local_submit" / "of-another-user"
    unread.write_bytes(b"{}")
    read = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path == unread:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)  # as root reads everything
    before = files(parts.spool.store)
    broken_off = parts.spool.store / "storage" / "blobstore" / ".x.part"
    broken_off.touch()
    os.utime(broken_off, (parts.clock(), parts.clock()))
    parts.clock.forward(1000 * DAY)
    retention = Retention(store=100 * DAY, ended=0.0)
    ages = ages_of(retention, parts.site.repeat_window)
    sweep = Sweep(parts.journal, parts.spool, ages, parts.clock, dry=False)
    for _ in sweep.run():
        pass
    assert sweep.tally.skipped == {str(unread): "cannot be read (Permission denied)"}
    assert files(parts.spool.store) == before and key in str(before)


def test_an_archive_that_is_submitted_again_stays_for_that(
    parts: Any, submit: Callable[..., bytes]
) -> None:
    submit()
    (archive,) = (parts.spool.store / "storage" / "blobstore").iterdir()
    os.utime(archive, (0, 0))
    inode = archive.stat().st_ino
    submit()
    assert (archive.stat().st_ino, archive.stat().st_mtime > 0) == (inode, True)
    # It was old when it was looked at, and somebody submits it at that very moment.
    assert storesweep.out_of_sight(archive, 1.0) is None
    assert archive.stat().st_ino == inode
    # Or just after it went out of sight.
    aside = storesweep.out_of_sight(archive, archive.stat().st_mtime + 1)
    assert aside is not None
    submit()
    aside.unlink()
    assert archive.exists()


@pytest.mark.parametrize("passes", range(1, 7))
def test_a_crash_in_the_middle_loses_no_track_of_what_goes(
    parts: Any, submit: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch, passes: int
) -> None:
    ran(parts, submit())
    age_all(parts)
    parts.clock.forward(200 * DAY)
    run_sweep(parts, store=None)
    left = passes

    def crash(_: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "crashpoint", crash)
        with pytest.raises(Crash):
            run_sweep(parts)
    run_sweep(parts)
    assert files(parts.spool.store) == []


def test_results_that_are_half_gone_do_not_come_back(
    parts: Any, submit: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ran(parts, submit())
    age_all(parts)
    parts.clock.forward(200 * DAY)
    run_sweep(parts, store=None)

    def crash(path: Path) -> Iterator[int]:
        yield next(removal.removal(path))
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "removal", crash)
        with pytest.raises(Crash):
            run_sweep(parts)
    run_sweep(parts, store=None)
    assert os.listdir(parts.spool.store / "storage" / "experiments") == []
    assert key not in "".join(files(parts.spool.store / "storage"))


def test_writes_that_were_broken_off_are_removed_after_a_day(parts: Any) -> None:
    for place in ("storage/blobstore/.a.tar.0f.part", "storage/experiments/k/.b.tar.0f.part"):
        path = parts.spool.store / place
        path.parent.mkdir(parents=True)
        path.write_text("half")
    age_all(parts)
    assert run_sweep(parts, store=None) == {}
    parts.clock.forward(2 * DAY)
    assert run_sweep(parts, store=None) == {"leftovers": 2}
