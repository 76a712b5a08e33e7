"""Who may run an attempt."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from hpcrunner.job.claim import Claim, job_id, take_claim
from hpcrunner.job.recordfile import make_way, read_record, write_record
from hpcrunner.request.claim import Fenced, Owner, claims, fence
from hpcrunner.request.plan import NodeSetup, Plan, PlannedExperiment
from hpcrunner.request.reasons import Reason
from hpcrunner.request.record import Record, RecordError, record_from_json

ME = Owner("here", os.getpid(), "77", 0, 1000.0)
RECORD = Record("b", 1, "e", 1, Reason.COMPLETED, "well")


def test_of_many_at_once_one_gets_the_claim(tmp_path: Path) -> None:
    taken = []
    barrier = threading.Barrier(8)

    def claim(number: int) -> None:
        barrier.wait()
        taken.append(take_claim(tmp_path / "1", replace(ME, job_id=f"{number}")))

    threads = [threading.Thread(target=claim, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(c.name for c in taken) == ["DUPLICATE"] * 7 + ["TAKEN"]


def test_another_job_is_a_duplicate_for_ever(tmp_path: Path) -> None:
    take_claim(tmp_path / "1", ME)
    before = (tmp_path / "1").read_bytes()
    other = Owner("there", 1, "78", 3, 2000.0)
    assert take_claim(tmp_path / "1", other) is Claim.DUPLICATE
    assert (tmp_path / "1").read_bytes() == before


def test_a_requeued_job_takes_over_its_own_claim_each_time(tmp_path: Path) -> None:
    take_claim(tmp_path / "1", ME)
    assert take_claim(tmp_path / "1", replace(ME, restarts=1)) is Claim.TAKEN_AGAIN
    assert take_claim(tmp_path / "1", replace(ME, restarts=2)) is Claim.TAKEN_AGAIN
    assert [owner and owner.restarts for owner in claims(tmp_path / "1")] == [0, 1, 2]
    # A process of the second run that wakes up late finds that it is no longer the last.
    late = replace(ME, restarts=1, host="there")
    assert take_claim(tmp_path / "1", late) is Claim.DUPLICATE


def test_a_claim_of_an_earlier_version_is_still_its_jobs(tmp_path: Path) -> None:
    old = {"host": "here", "pid": 1, "job_id": "77", "restarts": 0, "time": 1.0}
    lines = [json.dumps({**old, "restarts": n}) for n in (0, 1)]
    (tmp_path / "1").write_text("\n".join(lines) + "\n")
    assert take_claim(tmp_path / "1", replace(ME, job_id="78", restarts=2)) is Claim.DUPLICATE
    assert take_claim(tmp_path / "1", replace(ME, restarts=2)) is Claim.TAKEN_AGAIN


def test_a_fenced_attempt_is_nobodys_neither_new_nor_restarted(tmp_path: Path) -> None:
    assert fence(tmp_path / "1") is Fenced.BEFORE_START
    assert take_claim(tmp_path / "1", ME) is Claim.DUPLICATE
    take_claim(tmp_path / "2", ME)
    assert fence(tmp_path / "2") is Fenced.AFTER_START
    assert take_claim(tmp_path / "2", replace(ME, restarts=1)) is Claim.DUPLICATE


def test_the_same_job_without_a_count_is_a_restart_only_where_the_first_is_gone(
    tmp_path: Path,
) -> None:
    take_claim(tmp_path / "1", ME)
    assert take_claim(tmp_path / "1", replace(ME, pid=1)) is Claim.DUPLICATE
    assert take_claim(tmp_path / "1", replace(ME, host="there")) is Claim.TAKEN_AGAIN


def test_without_a_scheduler_nothing_is_a_restart(tmp_path: Path) -> None:
    take_claim(tmp_path / "1", replace(ME, job_id="", pid=2**22))
    assert take_claim(tmp_path / "1", replace(ME, job_id="", restarts=1)) is Claim.DUPLICATE


def test_a_torn_claim_belongs_to_whoever_made_it(tmp_path: Path) -> None:
    (tmp_path / "1").write_bytes(b"")
    assert take_claim(tmp_path / "1", replace(ME, restarts=1)) is Claim.DUPLICATE


def test_an_array_task_is_known_by_its_array() -> None:
    assert job_id({"SLURM_JOB_ID": "9"}) == "9"
    slurm = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "8", "SLURM_ARRAY_TASK_ID": "2"}
    assert job_id(slurm) == "8_2"
    assert job_id({}) == ""


def test_a_record_is_written_once_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "1.json"
    assert write_record(path, RECORD)
    assert not write_record(path, replace(RECORD, reason=Reason.CANCELLED))
    assert record_from_json(path.read_text()) == RECORD
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["1.json"]


def test_a_restart_withdraws_a_cancellation_and_respects_every_other_record(
    tmp_path: Path,
) -> None:
    path = tmp_path / "1.json"
    write_record(path, RECORD)
    assert not make_way(path, RECORD)
    assert path.exists()
    path.unlink()
    cancelled = replace(RECORD, reason=Reason.CANCELLED)
    write_record(path, cancelled)
    assert make_way(path, cancelled)
    assert not path.exists()


def test_a_damaged_record_and_one_of_another_attempt_are_named(tmp_path: Path) -> None:
    path = tmp_path / "1.json"
    experiment = PlannedExperiment("e", "k", "k", 1, None, (), ())
    plan = Plan("b", NodeSetup("/s", "/c"), (experiment,))
    assert read_record(path, plan, 1) is None
    write_record(path, RECORD)
    assert read_record(path, plan, 1) == RECORD
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(RecordError, match=r"1\.json: not a record"):
            read_record(path, plan, 1)
    path.write_text(replace(RECORD, attempt=2).to_json())
    with pytest.raises(RecordError, match=r"experiment e, attempt 2; this is .* attempt 1"):
        read_record(path, plan, 1)
