"""A journal older than the spool around it: healed where that is sure, named where it is not."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from hpcrunner.gateway.experiment import State
from hpcrunner.request.claim import Owner, make_claim


def restore(parts: Any, backup: Any) -> None:
    """Put an old copy of the journal in the place of the present one, and start again."""
    parts.journal.close()
    shutil.copyfile(backup, parts.spool.journal)
    parts.start()


@pytest.fixture
def backup(parts: Any, tmp_path: Any) -> Callable[[], Any]:
    def copy() -> Any:
        parts.journal.close()
        kept = tmp_path / "backup.db"
        shutil.copyfile(parts.spool.journal, kept)
        parts.start()
        return kept

    return copy


def settle(parts: Any) -> None:
    for _ in range(100):
        parts.dispatch.step()
        parts.clock.forward(2.0)


def test_what_was_submitted_after_the_backup_is_found_and_not_submitted_again(
    parts: Any, message: Callable[..., bytes], backup: Callable[[], Any]
) -> None:
    for key in "abc":
        parts.pile.put(message(key))
    parts.intake.drain(3)
    kept = backup()
    parts.dispatch.step()
    (folder,) = parts.spool.batch_names()
    restore(parts, kept)
    settle(parts)
    assert dict(parts.scheduler.reached) == {folder: 1}
    live = parts.journal.live()
    assert [(e.state, e.batch) for e in live] == [(State.PENDING, folder)] * 3
    assert len({e.job_id for e in live}) == 3


def test_an_experiment_taken_after_the_backup_is_named_and_its_folder_kept(
    parts: Any,
    message: Callable[..., bytes],
    backup: Callable[[], Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = backup()
    parts.pile.put(message("a"))
    parts.intake.drain(1)
    parts.dispatch.step()
    (e,) = parts.journal.live()
    claim = parts.spool.batch_folder(e.batch) / "claims" / "1"
    assert make_claim(claim, 0, Owner("n1", 5, e.job_id, 0, 0.0))
    with caplog.at_level(logging.ERROR):
        restore(parts, kept)
    assert parts.spool.batch_names() == [e.batch]
    assert e.batch in caplog.text
    assert "restored from a backup" in caplog.text


def test_of_a_batch_that_is_half_known_the_known_half_is_followed(
    parts: Any, message: Callable[..., bytes], backup: Callable[[], Any]
) -> None:
    parts.pile.put(message("a"))
    parts.intake.drain(1)
    kept = backup()
    parts.pile.put(message("b"))
    parts.intake.drain(1)
    parts.dispatch.step()
    (folder,) = parts.spool.batch_names()
    restore(parts, kept)
    settle(parts)
    (e,) = parts.journal.live()
    assert (e.key, e.state, e.batch, e.task) == ("a", State.PENDING, folder, 1)
    assert e.job_id == f"{folder}_1"
    assert dict(parts.scheduler.reached) == {folder: 1}


def test_a_folder_that_nobody_waits_for_and_nobody_started_is_removed(parts: Any) -> None:
    folder = parts.spool.batch_folder("0123456789ab")
    (folder / "claims").mkdir(parents=True)
    (folder / "plan.json").write_text("cut sho")
    parts.start()
    assert parts.spool.batch_names() == []
