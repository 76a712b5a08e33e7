"""The journal: what is written stays, forward only, private."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcrunner.gateway.experiment import Experiment, Outcome, State
from hpcrunner.gateway.journal import BatchState, Journal, JournalError, NewExperiment
from hpcrunner.request.reasons import Reason
from hpcrunner.sites.spec import JobSpec

SPEC = JobSpec(partition="gpu", cpus=2, directives=("--constraint=fast",))
WON = Outcome(State.SUCCEEDED, Reason.COMPLETED, "ended well", exit_code=0, node="n1")
LOST = Outcome(State.LOST, Reason.LOST, "gone")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.db", lambda: 5.0)
    yield journal
    journal.close()


def row(name: str, *, digest: str = "d") -> NewExperiment:
    experiment = Experiment(name, f"key-{name}", "rmq_q", State.ACCEPTED, 1.0, spec=SPEC)
    return NewExperiment(experiment, b'{"secret": 1}', digest)


def submitted(journal: Journal, *names: str) -> None:
    journal.add([row(n) for n in names])
    journal.begin_batch("b1", SPEC, names)
    journal.batch_submitted("b1", [f"77_{i}" for i in range(1, len(names) + 1)])


def test_what_was_added_is_there_for_the_next_process(tmp_path: Path) -> None:
    first = Journal(tmp_path / "j.db", lambda: 5.0)
    first.add([row("a")])
    first.close()
    (found,) = Journal(tmp_path / "j.db", lambda: 6.0).live()
    assert (found.id, found.key, found.state, found.spec) == ("a", "key-a", State.ACCEPTED, SPEC)


def test_only_its_user_may_read_the_journal(journal: Journal, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "journal.db").stat().st_mode) == 0o600


def test_commits_are_synced_to_the_disk(journal: Journal) -> None:
    (level,) = journal._db.execute("PRAGMA synchronous").fetchone()
    assert level == 2


def test_job_ids_reach_their_tasks_in_order(journal: Journal) -> None:
    submitted(journal, "a", "b")
    assert [(e.id, e.task, e.job_id) for e in journal.of_batch("b1")] == [
        ("a", 1, "77_1"),
        ("b", 2, "77_2"),
    ]


def test_a_final_state_is_final(journal: Journal) -> None:
    submitted(journal, "a")
    journal.end([("a", WON)])
    journal.end([("a", LOST)])
    journal.running([("a", "n9", 2.0)])
    journal.batch_submitted("b1", ["99"])
    (found,) = journal.find("a")
    assert (found.state, found.node, found.job_id) == (State.SUCCEEDED, "n1", "77_1")
    assert [s for _, s, _ in journal.history("a")].count(State.SUCCEEDED) == 1
    assert State.LOST not in [s for _, s, _ in journal.history("a")]


def test_states_only_move_forward() -> None:
    for state in State:
        for later in State:
            if state.may_become(later):
                assert not later.may_become(state)
    assert not any(final.may_become(s) for final in State if final.final for s in State)


def test_a_group_is_written_whole_or_not_at_all(journal: Journal) -> None:
    journal.add([row("a")])
    with pytest.raises(JournalError):
        journal.add([row("b"), row("a")])
    assert [e.id for e in journal.live()] == ["a"]


def test_a_refused_batch_is_set_aside_with_its_reason(journal: Journal) -> None:
    journal.add([row("a")])
    journal.begin_batch("b1", SPEC, ["a"])
    journal.batch_refused("b1", "sbatch: no such partition")
    (found,) = journal.find("a")
    assert (found.state, found.reason) == (State.REJECTED, Reason.SUBMIT_REFUSED)
    assert found.text == "sbatch: no such partition"
    assert journal.batches(BatchState.SUBMITTING, BatchState.READY) == []


def test_a_wish_to_cancel_is_kept_until_it_is_true(journal: Journal) -> None:
    submitted(journal, "a", "b")
    journal.wish_cancel(["a"])
    assert [e.id for e in journal.cancel_wished()] == ["a"]
    journal.end([("a", WON)])
    assert journal.cancel_wished() == []


def test_a_journal_of_a_newer_version_is_refused_by_name(tmp_path: Path) -> None:
    Journal(tmp_path / "j.db", lambda: 1.0).close()
    with sqlite3.connect(tmp_path / "j.db") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(JournalError, match="version 99"):
        Journal(tmp_path / "j.db", lambda: 1.0)


def test_a_file_that_is_no_journal_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "j.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(JournalError) as caught:
        Journal(tmp_path / "j.db", lambda: 1.0)
    assert "\n" not in caught.value.line()
    assert str(tmp_path / "j.db") in caught.value.line()
