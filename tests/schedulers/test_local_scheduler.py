"""The local scheduler for real: its daemon, its tasks, and what survives what."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.batch.batch import Batch
from hpcrunner.request.reasons import Reason
from hpcrunner.schedulers import processes
from hpcrunner.schedulers.contract import (
    Job,
    JobState,
    Sighting,
    Sought,
    SubmitRefused,
    SubmitUncertain,
    Verdict,
)
from hpcrunner.schedulers.local import LocalScheduler, Slots
from hpcrunner.schedulers.local_store import Store

Batches = Callable[..., Batch]
Make = Callable[..., LocalScheduler]
PATIENCE = 150.0


def jobs(ids: Sequence[str]) -> list[Job]:
    return [Job(job_id, job_id.partition("_")[0]) for job_id in ids]


def look_up(local: LocalScheduler, ids: Sequence[str]) -> dict[str, Sighting]:
    return {job.id: seen for job, seen in local.look_up(jobs(ids), 0.0).items()}


def seek(local: LocalScheduler, batch: Batch) -> Sought:
    return local.seek([batch], 0.0)[batch.id]


@pytest.fixture
def make_batch(make_batch: Batches) -> Batches:
    """Batches whose ids are not those of another test run on this machine: tasks carry them."""
    token = secrets.token_hex(4)
    return lambda batch_id="ab", *args, **spec: make_batch(batch_id + token, *args, **spec)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[LocalScheduler] = []

    def make(**slots: Any) -> LocalScheduler:
        given = {"cpus": 4, "memory": 1 << 30, "kill_wait": 1.0, "linger": 0.3, **slots}
        made.append(LocalScheduler(tmp_path / "local", Slots(**given)))
        return made[-1]

    yield make
    if made:
        store = Store(made[0].folder)
        left = store.unfinished() if store.jobs.is_dir() else []
        made[0].cancel(jobs([f"{name}_{index}" for name in left for index in range(1, 10)]))
        until(lambda: not daemon(store.root))


@pytest.fixture
def local(make: Make) -> LocalScheduler:
    return make()


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.05)


def daemon(folder: Path) -> int | None:
    """The process that holds the lock."""
    try:
        with (folder / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return None
    except FileNotFoundError:
        return None
    except BlockingIOError:
        pass
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"hpcrunner.schedulers.local_daemon" in words and bytes(folder) in words:
            return int(entry.parent.name)
    return None


def ended(local: LocalScheduler, ids: Sequence[str]) -> Mapping[str, Sighting]:
    seen: Mapping[str, Sighting] = {}

    def all_ended() -> bool:
        nonlocal seen
        seen = look_up(local, ids)
        return all(s.state is JobState.ENDED for s in seen.values())

    until(all_ended)
    return seen


def running(local: LocalScheduler, job_id: str) -> bool:
    return look_up(local, [job_id])[job_id].word == "RUNNING"


def gone(pid: int) -> bool:
    return processes.identify(pid) is None


def test_a_job_runs_in_its_folder_and_its_output_is_kept(
    local: LocalScheduler, make_batch: Batches
) -> None:
    batch = make_batch(script="pwd; echo err >&2")
    [job_id] = local.submit(batch).job_ids
    seen = ended(local, [job_id])[job_id]
    assert (seen.reason, seen.exit_code, seen.accounted) == (Reason.COMPLETED, 0, True)
    assert seen.started_at is not None and seen.ended_at is not None
    assert (batch.logs / "1.out").read_text() == f"{batch.folder}\nerr\n"


def test_every_task_of_an_array_runs_once_and_ends_as_it_ends(
    local: LocalScheduler, make_batch: Batches
) -> None:
    batch = make_batch(
        size=30,
        script="echo run $HPCRUNNER_TASK_ID $HPCRUNNER_JOB_ID; exit $((HPCRUNNER_TASK_ID % 3))",
    )
    ids = local.submit(batch).job_ids
    seen = ended(local, ids)
    for index, job_id in enumerate(ids, start=1):
        assert (batch.logs / f"{index}.out").read_text() == f"run {index} {job_id}\n"
        assert seen[job_id].exit_code == index % 3
        wanted = Reason.SCHEDULER_FAILED if index % 3 else Reason.COMPLETED
        assert seen[job_id].reason is wanted


def test_nothing_of_the_submitters_environment_is_visible(
    make: Make, make_batch: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_SECRET", "leak")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/leak")
    monkeypatch.setenv("PYTHONPATH", "/leak")
    local, batch = make(), make_batch(script="env")
    ended(local, local.submit(batch).job_ids)
    names = {line.partition("=")[0] for line in (batch.logs / "1.out").read_text().splitlines()}
    assert not {"GATEWAY_SECRET", "LD_LIBRARY_PATH", "PYTHONPATH"} & names
    assert {"PATH", "HOME", "HPCRUNNER_JOB_ID", "HPCRUNNER_TASK_ID"} <= names


def test_a_job_past_its_time_limit_may_save_and_is_a_timeout(
    make: Make, make_batch: Batches
) -> None:
    local = make(kill_wait=30.0)
    batch = make_batch(script="trap 'echo saved; exit 0' TERM; sleep 600 & wait", time_limit=3)
    [job_id] = local.submit(batch).job_ids
    seen = ended(local, [job_id])[job_id]
    assert (seen.word, seen.reason) == ("TIMEOUT", Reason.TIME_LIMIT)
    assert (batch.logs / "1.out").read_text() == "saved\n"


def test_what_ignores_the_time_limit_is_killed_with_all_it_started(
    local: LocalScheduler, make_batch: Batches
) -> None:
    script = (
        "trap '' TERM; setsid sh -c 'trap \"\" TERM; echo $$ > far; sleep 600; sleep 600' &\n"
        "sh -c 'echo $$ > near; sleep 600; sleep 600' & sleep 600; sleep 600"
    )
    batch = make_batch(script=script, time_limit=4)
    [job_id] = local.submit(batch).job_ids
    assert ended(local, [job_id])[job_id].reason is Reason.TIME_LIMIT
    for name in ("near", "far"):
        pid = int((batch.folder / name).read_text())
        until(lambda pid=pid: gone(pid))


def test_what_a_job_leaves_behind_ends_with_it(local: LocalScheduler, make_batch: Batches) -> None:
    batch = make_batch(script="setsid sleep 600 & echo $!")
    [job_id] = local.submit(batch).job_ids
    assert ended(local, [job_id])[job_id].reason is Reason.COMPLETED
    pid = int((batch.logs / "1.out").read_text())
    until(lambda: gone(pid))


def test_running_and_waiting_jobs_can_be_cancelled(make: Make, make_batch: Batches) -> None:
    local = make(cpus=1)
    ids = local.submit(make_batch(size=3, script="sleep 600")).job_ids
    until(lambda: running(local, ids[0]))
    local.cancel(jobs([ids[0], ids[2]]))
    until(lambda: running(local, ids[1]))
    seen = look_up(local, ids)
    assert [seen[i].reason for i in (ids[0], ids[2])] == [Reason.CANCELLED, Reason.CANCELLED]
    assert seen[ids[2]].started_at is None
    local.cancel(jobs(ids))
    assert ended(local, ids)[ids[1]].reason is Reason.CANCELLED


def test_cancelling_what_has_ended_or_never_was_is_no_error(
    local: LocalScheduler, make_batch: Batches
) -> None:
    ids = local.submit(make_batch()).job_ids
    ended(local, ids)
    local.cancel(jobs([*ids, "hpcr-ffff", "123", "../../etc", ""]))
    assert look_up(local, ids)[ids[0]].reason is Reason.COMPLETED


def test_jobs_start_in_the_order_they_came_and_within_the_slots(
    make: Make, make_batch: Batches, tmp_path: Path
) -> None:
    local = make(cpus=2)
    book = tmp_path / "book"
    note = f"echo $HPCRUNNER_JOB_ID in >> {book}; sleep 0.2; echo $HPCRUNNER_JOB_ID out >> {book}"
    ids: list[str] = []
    for batch_id, cpus, size in (("a1", 1, 2), ("a2", 2, 2), ("a3", 1, 2)):
        batch = make_batch(batch_id, size, note, cpus=cpus)
        ids += local.submit(batch).job_ids
    ended(local, ids)
    inside = 0
    started = []
    for line in book.read_text().splitlines():
        job_id, way = line.split()
        cpus = 2 if job_id.startswith("hpcr-a2") else 1
        inside += cpus if way == "in" else -cpus
        assert inside <= 2
        if way == "in":
            started.append(job_id.partition("_")[0])
    assert started == sorted(started)


@pytest.mark.parametrize("variable", ["CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"])
def test_gpus_are_handed_out_one_by_one_and_hidden_from_who_has_none(
    make: Make, make_batch: Batches, variable: str
) -> None:
    local = make(gpus=("3", "GPU-8932", "1"), gpu_variable=variable)
    script = f"echo [${variable}]; while [ ! -e go ]; do sleep 0.05; done"
    one = make_batch("a1", 1, script, gpus=1)
    two = make_batch("a2", 1, script, gpus=2)
    none = make_batch("a3", 1, script)
    late = make_batch("a4", 1, script, gpus=2)
    ids = [i for batch in (one, two, none) for i in local.submit(batch).job_ids]
    until(lambda: all(running(local, i) for i in ids))
    [waits] = local.submit(late).job_ids
    (late.folder / "go").touch()
    (one.folder / "go").touch()
    ended(local, ids[:1])
    assert look_up(local, [waits])[waits].word == "PENDING"  # one GPU is free, two are wanted
    for batch in (two, none):
        (batch.folder / "go").touch()
    ended(local, [*ids, waits])
    said = [(batch.logs / "1.out").read_text().strip() for batch in (one, two, none, late)]
    assert said == ["[3]", "[GPU-8932,1]", "[]", "[3,GPU-8932]"]


@pytest.mark.parametrize("spec", [{"cpus": 5}, {"memory": 1 << 40}, {"gpus": 1}])
def test_a_job_that_never_fits_is_refused(
    local: LocalScheduler, make_batch: Batches, spec: dict[str, int]
) -> None:
    with pytest.raises(SubmitRefused) as refused:
        local.submit(make_batch(**spec))
    assert not refused.value.passing


def test_a_batch_is_found_by_its_name_and_submitted_only_once(
    local: LocalScheduler, make_batch: Batches, tmp_path: Path
) -> None:
    batch = make_batch(size=2, script=f"echo x >> {tmp_path}/book")
    assert seek(local, batch).verdict is Verdict.NOT_FOUND
    submission = local.submit(batch)
    assert seek(local, batch).submission == submission
    ended(local, submission.job_ids)
    assert seek(local, batch).submission == submission
    assert local.submit(batch) == submission
    ended(local, submission.job_ids)
    until(lambda: not daemon(local.folder))
    assert (tmp_path / "book").read_text() == "x\nx\n"


def test_a_script_that_cannot_run_is_a_failed_launch(
    local: LocalScheduler, make_batch: Batches
) -> None:
    batch = make_batch()
    batch.script.chmod(0o600 if os.geteuid() else 0o000)
    [job_id] = local.submit(batch).job_ids
    assert ended(local, [job_id])[job_id].reason is Reason.LAUNCH_FAILED


def test_a_script_killed_by_a_signal_says_which(local: LocalScheduler, make_batch: Batches) -> None:
    [job_id] = local.submit(make_batch(script="kill -9 $$")).job_ids
    seen = ended(local, [job_id])[job_id]
    assert (seen.reason, seen.exit_code, seen.signal) == (Reason.SCHEDULER_FAILED, None, 9)


def test_the_daemon_ends_when_idle_and_comes_back_for_work(
    local: LocalScheduler, make_batch: Batches
) -> None:
    for batch_id in ("a1", "a2"):
        ended(local, local.submit(make_batch(batch_id)).job_ids)
        until(lambda: not daemon(local.folder))


def test_a_killed_daemon_loses_no_task_and_starts_none_twice(
    make: Make, make_batch: Batches, tmp_path: Path
) -> None:
    local = make(cpus=2)
    wait = "while [ ! -e go ]; do sleep 0.05; done"
    script = f"echo $HPCRUNNER_TASK_ID >> {tmp_path}/book; {wait}; exit 3"
    batch = make_batch(size=4, script=script)
    ids = local.submit(batch).job_ids
    until(lambda: running(local, ids[1]))
    first = daemon(local.folder)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    until(lambda: gone(first))
    assert running(local, ids[0])  # and this look-up starts another daemon
    until(lambda: daemon(local.folder) not in (None, first))
    (batch.folder / "go").touch()
    seen = ended(local, ids)
    assert [seen[i].exit_code for i in ids] == [3, 3, 3, 3]
    assert sorted((tmp_path / "book").read_text().split()) == ["1", "2", "3", "4"]


def test_an_ending_while_no_daemon_lives_is_known_to_the_next(
    local: LocalScheduler, make_batch: Batches
) -> None:
    batch = make_batch(script="while [ ! -e go ]; do sleep 0.05; done; exit 5")
    [job_id] = local.submit(batch).job_ids
    until(lambda: running(local, job_id))
    first = daemon(local.folder)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    (batch.folder / "go").touch()
    until(lambda: (local.folder / "jobs" / batch.name / "exits" / "1").exists())
    assert ended(local, [job_id])[job_id].exit_code == 5


def test_a_task_that_vanished_with_its_daemon_is_a_node_failure(
    local: LocalScheduler, make_batch: Batches
) -> None:
    [job_id] = local.submit(make_batch(script="sleep 600")).job_ids
    until(lambda: running(local, job_id))
    first = daemon(local.folder)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    processes.send(
        processes.members(-1, f"HPCRUNNER_JOB_ID={job_id}"), signal.SIGKILL
    )  # as a reboot would
    assert ended(local, [job_id])[job_id].reason is Reason.NODE_FAIL


def test_a_time_limit_outlives_the_daemon_that_set_it(
    local: LocalScheduler, make_batch: Batches
) -> None:
    [job_id] = local.submit(make_batch(script="sleep 600", time_limit=2)).job_ids
    until(lambda: running(local, job_id))
    first = daemon(local.folder)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert ended(local, [job_id])[job_id].reason is Reason.TIME_LIMIT


def test_a_job_taken_in_the_daemons_last_moment_still_runs(make: Make, make_batch: Batches) -> None:
    """Submitted over and over while daemons with no patience come and go."""
    local = make(linger=0.0)
    ids: list[str] = []
    for number in range(15):
        ids += local.submit(make_batch(f"{number:04x}")).job_ids
        time.sleep(0.07)
    store = Store(local.folder)
    # Without a look-up, which would start a daemon where one is missing.
    until(lambda: not store.unfinished())
    assert {s.reason for s in look_up(local, ids).values()} == {Reason.COMPLETED}


def test_many_submitters_share_one_daemon(make: Make, make_batch: Batches) -> None:
    schedulers = [make() for _ in range(4)]
    ids = [
        i
        for number, local in enumerate(schedulers)
        for i in local.submit(make_batch(f"a{number}", script="sleep 0.3")).job_ids
    ]
    ended(schedulers[0], ids)


def test_a_torn_line_in_the_books_hides_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.tell(tmp_path, 1, {"word": "RUNNING"}, sync=False)
    with (tmp_path / "states").open("a") as states:
        states.write('{"task": 1, "word": "COMP')
    assert store.states(tmp_path)[1].word == "RUNNING"
    store.tell(tmp_path, 1, {"word": "FAILED", "exit_code": 2}, sync=False)
    assert store.states(tmp_path)[1].exit_code == 2


def test_a_damaged_job_is_set_aside_and_the_others_run(
    local: LocalScheduler, make_batch: Batches
) -> None:
    store = Store(local.folder)
    store.prepare()
    (store.jobs / "hpcr-bad").mkdir()
    (store.jobs / "hpcr-bad" / "job.json").write_text(json.dumps({"name": 3}))
    ids = [*local.submit(make_batch()).job_ids, "hpcr-bad"]
    seen = ended(local, ids)
    assert [seen[i].reason for i in ids] == [Reason.COMPLETED, Reason.NODE_FAIL]


def test_an_unreadable_folder_is_unavailable_and_never_absent(
    tmp_path: Path, make_batch: Batches
) -> None:
    (tmp_path / "local").write_text("not a folder")
    local = LocalScheduler(tmp_path / "local", Slots(1, 1))
    assert look_up(local, ["hpcr-ab"])["hpcr-ab"].verdict is Verdict.UNAVAILABLE
    assert seek(local, make_batch()).verdict is Verdict.UNAVAILABLE


def test_a_submission_that_cannot_be_written_down_was_not_taken(
    local: LocalScheduler, make_batch: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    batch = make_batch()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(SubmitRefused) as refused:
            local.submit(batch)
    assert refused.value.passing
    assert seek(local, batch).verdict is Verdict.NOT_FOUND
    assert ended(local, local.submit(batch).job_ids)


def test_a_submission_into_an_unreadable_folder_is_uncertain(
    tmp_path: Path, make_batch: Batches
) -> None:
    (tmp_path / "local").write_text("not a folder")
    with pytest.raises(SubmitUncertain):
        LocalScheduler(tmp_path / "local", Slots(1, 1)).submit(make_batch())


def test_ids_of_another_scheduler_are_unavailable(local: LocalScheduler) -> None:
    assert look_up(local, ["123_4"])["123_4"].verdict is Verdict.UNAVAILABLE
    assert look_up(local, ["hpcr-ff"])["hpcr-ff"].verdict is Verdict.NOT_FOUND


def test_everything_it_writes_is_private(local: LocalScheduler, make_batch: Batches) -> None:
    before = os.umask(0o022)
    try:
        ended(local, local.submit(make_batch()).job_ids)
    finally:
        os.umask(before)
    assert local.folder.stat().st_mode & 0o077 == 0


def test_an_idle_wait_costs_no_time(local: LocalScheduler, make_batch: Batches) -> None:
    """A daemon with one sleeping task sleeps too: it is asked for its own account of CPU time."""
    [job_id] = local.submit(make_batch(script="sleep 600")).job_ids
    until(lambda: running(local, job_id))
    pid = daemon(local.folder)

    def ticks() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def idle() -> bool:
        before = ticks()
        time.sleep(1.0)
        return ticks() - before <= 5  # of 100

    # It may still be busy with the beginning of that task, but not for long.
    assert any(idle() for _ in range(20))
