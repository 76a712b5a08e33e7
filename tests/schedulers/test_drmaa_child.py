"""The DRMAA child and its parent, with a child that misbehaves in every way it can."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.drmaa import DrmaaJob
from hpcrunner.schedulers.backend import Backend
from hpcrunner.schedulers.command import Completed
from hpcrunner.schedulers.contract import Job, SubmitRefused, SubmitUncertain, Verdict
from hpcrunner.schedulers.drmaa_session import ChildLost, DrmaaRefusal, DrmaaSession
from hpcrunner.schedulers.drmaa_submitter import DrmaaSubmitter
from hpcrunner.schedulers.overheard import with_printed
from hpcrunner.schedulers.slurm import Listing, Slurm
from hpcrunner.schedulers.slurm_drm import slurm_drm

# A child of the same protocol that answers as the job's name tells it to.
CHILD = """
import json, os, socket, sys, time
channel = socket.socket(fileno=int(sys.argv[1]))
for line in channel.makefile("rb"):
    request = json.loads(line)
    how = request.get("name", "")[5:]
    print("chatter {"); print("chatter", file=sys.stderr, flush=True)
    if request["call"] == "hello":
        answer = {"drms": "SLURM 22.05.8", "implementation": "stand-in", "version": "1.0",
                  "contact": json.dumps(dict(os.environ))}
    elif how == "dead":
        print("E #1f03 [     0.17]  * the munge socket is gone", file=sys.stderr, flush=True)
        os._exit(9)
    elif how == "loud":
        print(*range(400_000), sep="\\n", file=sys.stderr)
        print("python: error: the last word", file=sys.stderr, flush=True)
        answer = {"error": "DeniedByDrmException", "text": "code 17: Invalid qos", "sent": True}
    elif how == "bad":
        time.sleep(600)
    elif how == "babe":
        channel.sendall(b"not json\\n")
        continue
    elif how == "fade":
        channel.sendall(b'{"ids": ["1')
        os._exit(0)
    elif how.startswith("e"):
        kinds = open(sys.argv[2]).read().split("|")
        answer = {"error": kinds[0], "text": kinds[1], "sent": kinds[2] == "sent"}
    else:
        n = request["size"]
        answer = {"ids": ["17"] if n == 1 else [f"17_{i + 1}" for i in range(n)]}
        if how == "few":
            answer["ids"].pop()
        answer["seen"] = request
    channel.sendall(json.dumps(answer).encode() + b"\\n")
"""

Batches = Callable[..., Batch]


@pytest.fixture
def error_file(tmp_path: Path) -> Path:
    return tmp_path / "error"


@pytest.fixture
def session(tmp_path: Path, error_file: Path) -> Iterator[DrmaaSession]:
    child = tmp_path / "child.py"
    child.write_text(CHILD)
    session = DrmaaSession(library=str(error_file), argv=[sys.executable, str(child)])
    yield session
    session.close()


@pytest.fixture
def scheduler(session: DrmaaSession, commands: Any) -> Backend:
    drm = slurm_drm(lambda batch: DrmaaJob("--partition=cpu", "exec true", "/o"))
    return Backend(DrmaaSubmitter(session, drm, timeout=60.0), Slurm(runner=commands()))


def test_single_jobs_and_arrays_give_the_same_ids_as_sbatch(
    scheduler: Backend, make_batch: Batches
) -> None:
    assert scheduler.submit(make_batch("a1")).job_ids == ("17",)
    assert scheduler.submit(make_batch("a2", 3)).job_ids == ("17_1", "17_2", "17_3")


@pytest.mark.parametrize("name", ["a1", "dead"])
def test_a_submission_ends_a_listing_even_where_it_is_uncertain(
    session: DrmaaSession, commands: Any, make_batch: Batches, name: str
) -> None:
    ask = commands(squeue=Completed("", "", 0))
    listing = Listing(lambda: 100.0)
    slurm = Slurm(accounting=False, runner=ask, listing=listing)
    drm = slurm_drm(lambda batch: DrmaaJob("", "exec true", "/o"))
    scheduler = Backend(DrmaaSubmitter(session, drm, timeout=20.0), slurm)
    job, batch = Job("17", f"hpcr-{name}"), make_batch(name)
    assert scheduler.look_up([job], 0.0)[job].verdict is Verdict.NOT_FOUND
    with contextlib.suppress(SubmitUncertain):
        scheduler.submit(batch)
    ask.answers["squeue"] = Completed(f"17|N/A|PENDING|N/A||None|hpcr-{name}\n", "", 0)
    assert scheduler.look_up([job], 0.0)[job].verdict is Verdict.FOUND


def test_what_the_library_prints_is_not_an_answer(session: DrmaaSession) -> None:
    assert session.hello(60).implementation == "stand-in"
    assert session.hello(60).drms == "SLURM 22.05.8"


def test_the_child_is_given_only_what_a_job_may_see(
    session: DrmaaSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_SECRET", "x")
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    seen = session.hello(60).contact
    assert "PATH" in seen
    assert "GATEWAY_SECRET" not in seen
    assert "SLURM_JOB_ID" not in seen


@pytest.mark.parametrize("how", ["dead", "bad", "babe", "fade"])
def test_a_child_that_is_lost_in_a_submission_leaves_it_uncertain(
    scheduler: Backend, session: DrmaaSession, make_batch: Batches, how: str
) -> None:
    session.hello(60)
    hasty = DrmaaSubmitter(session, scheduler.submitter.drm, timeout=1.0)  # type: ignore[attr-defined]
    with pytest.raises(SubmitUncertain):
        (hasty if how == "bad" else scheduler).submit(make_batch(how))
    # And the next submission gets a new child, not the old one's answer.
    assert scheduler.submit(make_batch("a1")).job_ids == ("17",)


def test_a_call_ends_in_time_and_its_child_with_it(
    session: DrmaaSession, make_batch: Batches
) -> None:
    session.hello(60)
    process = session._child()._process
    assert process is not None
    pid = process.pid
    job = {"script": "true", "folder": "/", "output": "o", "native": ""}
    with pytest.raises(ChildLost):
        session.submit(name="hpcr-bad", size=1, timeout=0.3, **job)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        ("DeniedByDrmException|code 17: slurm_submit_batch_job error: Invalid qos|sent", False),
        ("DeniedByDrmException|code 17: AssocMaxSubmitJobLimit|sent", True),
        ("DeniedByDrmException|code 17: Words that are new|sent", False),
        ("InvalidAttributeValueException|code 14: Invalid native specification|sent", False),
        ("TryLaterException|code 16: later|sent", True),
        ("NoActiveSessionException|code 5: no session|sent", True),
        ("RuntimeError|Could not find drmaa library|unsent", True),
        ("ModuleNotFoundError|No module named 'drmaa'|unsent", True),
    ],
)
def test_a_definite_no_is_a_refusal(
    scheduler: Backend, make_batch: Batches, error_file: Path, error: str, passing: bool
) -> None:
    error_file.write_text(error)
    with pytest.raises(SubmitRefused) as refused:
        scheduler.submit(make_batch("e1"))
    assert refused.value.passing is passing
    assert "code 1" not in str(refused.value)


@pytest.mark.parametrize(
    "error",
    [
        "InternalException|code 1: slurm_submit_batch_job error (1800): Unable to contact|sent",
        # runBulkJobs reads the array back after it has submitted it.
        "InternalException|code 1: slurm_load_job: Invalid job id specified|sent",
        "DrmCommunicationException|code 2: Socket timed out on send/recv operation|sent",
        "OutOfMemoryException|code 6: |sent",
        "SomethingNewException|code 99: |sent",
    ],
)
def test_whatever_may_come_after_the_submission_is_uncertain(
    scheduler: Backend, make_batch: Batches, error_file: Path, error: str
) -> None:
    error_file.write_text(error)
    with pytest.raises(SubmitUncertain):
        scheduler.submit(make_batch("e1"))


def test_an_array_with_a_missing_id_is_looked_up(scheduler: Backend, make_batch: Batches) -> None:
    with pytest.raises(SubmitUncertain):
        scheduler.submit(make_batch("few", 2))


def test_the_real_child_says_that_there_is_no_library(tmp_path: Path) -> None:
    session = DrmaaSession(library=str(tmp_path / "libdrmaa.so"))
    with pytest.raises(DrmaaRefusal) as refused:
        session.hello(60)
    session.close()
    assert not refused.value.sent


def test_a_closed_session_opens_again(session: DrmaaSession) -> None:
    session.hello(60)
    session.close()
    assert session.hello(60).version == "1.0"


def test_a_child_without_parent_ends(session: DrmaaSession) -> None:
    session.hello(60)
    process, channel = session._child()._process, session._child()._channel
    assert process is not None and channel is not None
    channel.close()  # as when the gateway is killed
    assert process.wait(60) == 0


def patient(session: DrmaaSession) -> DrmaaSubmitter:
    """One whose time-out is not what is tried."""
    drm = slurm_drm(lambda batch: DrmaaJob("--partition=cpu", "exec true", "/o"))
    return DrmaaSubmitter(session, drm, timeout=60.0)


def test_what_a_library_prints_goes_into_the_one_line_where_it_says_more(
    session: DrmaaSession, make_batch: Batches, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also of a child that died, and of one that prints more than a pipe holds."""
    submitter = patient(session)
    with pytest.raises(SubmitUncertain) as died:
        submitter.submit(make_batch("dead"))
    assert "the child closed its end); chatter; the munge socket is gone" in died.value.line()
    with pytest.raises(SubmitRefused) as refused:
        submitter.submit(make_batch("loud"))
    assert "(Invalid qos; …" in refused.value.line()
    assert "; 399998; 399999; the last word)" in refused.value.line()
    assert len(refused.value.line()) < 600
    assert capfd.readouterr() == ("", "")


def test_what_is_printed_while_all_goes_well_is_in_the_debug_log_and_in_no_later_error(
    session: DrmaaSession,
    make_batch: Batches,
    error_file: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    submitter = patient(session)
    error_file.write_text("DeniedByDrmException|code 17: chatter|sent")
    with caplog.at_level(logging.DEBUG):
        submitter.submit(make_batch("a1"))
        ours = [r.getMessage() for r in caplog.records if r.name.startswith("hpcrunner.")]
        assert ours == ["drmaa child printed: chatter"]
        with pytest.raises(SubmitRefused) as refused:
            submitter.submit(make_batch("e1"))
    assert "(chatter)" in refused.value.line()  # ours and the library's word are one


@pytest.mark.parametrize(
    ("printed", "line"),
    [
        ("python: error: cannot stat file", "no; cannot stat file"),
        ("E #1f03 [     0.17]  * no", "no"),
        ("slurm: error: b\n\n  b \nfatal: c", "no; b; c"),
        ("", "no"),
    ],
)
def test_printed_lines_are_told_once_and_without_tags(printed: str, line: str) -> None:
    assert with_printed("no", printed) == line
