"""The journal: what is written stays, forward only, private."""

from __future__ import annotations

import sqlite3
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hpcrunner.gateway.database import Database, JournalError, Superseded
from hpcrunner.gateway.experiment import Experiment, Outcome, Reports, State
from hpcrunner.gateway.journal import Journal, NewExperiment, NextAttempt
from hpcrunner.gateway.reader import BatchState, Reader
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
    journal.begin_batch("b1", SPEC, dict(enumerate(names, start=1)), size=len(names))
    journal.batch_submitted("b1", [f"77_{i}" for i in range(1, len(names) + 1)])


def test_what_was_added_is_there_for_the_next_process(tmp_path: Path) -> None:
    first = Journal(tmp_path / "j.db", lambda: 5.0)
    first.add([row("a")])
    first.close()
    (found,) = Journal(tmp_path / "j.db", lambda: 6.0).live()
    assert (found.id, found.key, found.state, found.spec) == ("a", "key-a", State.ACCEPTED, SPEC)


def test_only_its_user_may_read_the_journal(journal: Journal, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "journal.db").stat().st_mode) == 0o600


def test_commits_are_synced_to_the_disk(tmp_path: Path) -> None:
    assert Database(tmp_path / "j.db", make=True).read("PRAGMA synchronous") == [(2,)]


def test_job_ids_reach_their_tasks_in_order(journal: Journal) -> None:
    submitted(journal, "a", "b")
    assert [(e.id, e.task, e.job_id) for e in journal.live()] == [
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


def again(e: Experiment, outcome: Outcome = LOST) -> NextAttempt:
    return NextAttempt(e, outcome, SPEC, 9.0, 1, 0, "attempt 2")


def test_another_attempt_starts_afresh_and_the_ended_one_is_kept(journal: Journal) -> None:
    submitted(journal, "a")
    journal.running([("a", "n1", 3.0)])
    (e,) = journal.find("a")
    journal.retry([again(e)])
    (found,) = journal.find("a")
    assert (found.state, found.attempt, found.batch) == (State.ACCEPTED, 2, "")
    assert (found.job_id, found.node, found.started_at) == ("", "", None)
    assert found.infrastructure_failures == 1
    (ended,) = journal.attempts("a")
    assert (ended.attempt, ended.batch, ended.job_id, ended.node) == (1, "b1", "77_1", "n1")
    assert (ended.state, ended.reason, ended.started_at) == (State.LOST, Reason.LOST, 3.0)


def test_an_attempt_is_followed_by_one_other_only(journal: Journal) -> None:
    submitted(journal, "a")
    (e,) = journal.find("a")
    journal.retry([again(e)])
    journal.retry([again(e)])
    assert journal.find("a")[0].attempt == 2
    journal.end([("a", WON)])
    journal.retry([again(journal.find("a")[0])])
    assert journal.find("a")[0].state is State.SUCCEEDED


def test_an_attempt_that_is_held_back_is_not_due(journal: Journal) -> None:
    submitted(journal, "a")
    journal.retry([again(journal.find("a")[0])])
    assert journal.due(8.9) == []
    assert [e.id for e in journal.due(9.0)] == ["a"]
    assert journal.next_due() == 9.0


def test_what_ended_badly_stays_on_the_dead_list_until_it_is_dropped_or_retried(
    journal: Journal,
) -> None:
    submitted(journal, "a", "b", "c")
    journal.end([("a", LOST), ("b", WON), ("c", LOST)])
    assert [e.id for e in journal.aside()] == ["a", "c"]
    journal.drop(["a", "b"])
    journal.retry_aside("c", row("d"))
    assert journal.aside() == []
    assert journal.find("c")[0].retried_as == "d"
    journal.retry_aside("c", row("e"))
    assert [e.id for e in journal.live()] == ["d"]


def test_a_writer_that_was_superseded_writes_nothing(journal: Journal, tmp_path: Path) -> None:
    journal.take_over("one", 1)
    second = Journal(tmp_path / "journal.db", lambda: 6.0)
    second.take_over("two", 2)
    with pytest.raises(Superseded, match="two"):
        journal.add([row("a")])
    second.add([row("b")])
    assert [e.id for e in journal.live()] == ["b"]


def test_a_journal_of_the_first_version_is_brought_up_to_date_with_all_it_holds(
    tmp_path: Path,
) -> None:
    db = sqlite3.connect(tmp_path / "j.db")
    db.executescript((Path(__file__).parent / "journal_version_1.sql").read_text())
    db.close()
    with pytest.raises(JournalError, match="start the gateway once"):
        Reader(tmp_path / "j.db")
    journal = Journal(tmp_path / "j.db", lambda: 1.0)
    (found,) = journal.live()
    assert (found.id, found.state, found.job_id) == ("0123456789ab", State.PENDING, "77_1")
    assert found.spec == JobSpec(partition="gpu", cpus=2)
    assert journal.message(found.id) == b"{}"
    assert [text for _, _, text in journal.history(found.id)] == ["", "job 77_1"]
    assert journal.repeated("d1", 0.0) is not None
    assert (found.server, found.reports) == ("", Reports.NONE)


def test_reports_are_due_until_they_are_told(journal: Journal) -> None:
    told = replace(row("a").experiment, server="amqp://here", reports=Reports.DUE)
    journal.add([NewExperiment(told, b"{}", "d"), row("b")])
    journal.end([("a", WON)])
    (due,) = journal.reports_due()
    assert (due.id, due.server, due.state) == ("a", "amqp://here", State.SUCCEEDED)
    journal.reported(["a"])
    assert journal.reports_due() == []
    assert journal.find("a")[0].reports is Reports.OVER


def test_a_group_is_written_whole_or_not_at_all(journal: Journal) -> None:
    journal.add([row("a")])
    with pytest.raises(JournalError):
        journal.add([row("b"), row("a")])
    assert [e.id for e in journal.live()] == ["a"]


def test_a_refused_batch_is_set_aside_with_its_reason(journal: Journal) -> None:
    journal.add([row("a")])
    journal.begin_batch("b1", SPEC, {1: "a"}, size=1)
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


def test_a_look_at_the_journal_cannot_write_to_it(journal: Journal, tmp_path: Path) -> None:
    journal.add([row("a")])
    looking = Database(tmp_path / "journal.db", make=False)
    with pytest.raises(JournalError), looking.write() as db:
        db.execute("DELETE FROM experiments")
    assert [e.id for e in Reader(tmp_path / "journal.db").live()] == ["a"]


def test_a_fault_of_ours_is_not_waited_for_like_a_full_disk(journal: Journal) -> None:
    journal.add([row("a")])
    with pytest.raises(JournalError) as caught:
        journal.add([row("a")])
    assert not caught.value.passing


def test_a_look_at_a_journal_that_is_just_being_made_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpcrunner.gateway.database._MAKING", 120.0)  # a busy disk takes its time
    (tmp_path / "j.db").touch(mode=0o600)
    found: list[int] = []

    def look() -> None:
        reader = Reader(tmp_path / "j.db")
        found.append(reader.count_live())
        reader.close()

    looking = threading.Thread(target=look)
    looking.start()
    Journal(tmp_path / "j.db", lambda: 1.0).close()
    looking.join(150)
    assert found == [0]
