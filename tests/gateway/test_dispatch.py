"""Submission: one run of each attempt, whatever the scheduler answers and whenever we die."""

from __future__ import annotations

import stat
from collections.abc import Callable
from typing import Any

import pytest

from hpcrunner.batch.batch import Batch
from hpcrunner.gateway.database import JournalError
from hpcrunner.gateway.dispatch import asked_for
from hpcrunner.gateway.experiment import State
from hpcrunner.request.reasons import Reason
from hpcrunner.schedulers.contract import Submission, SubmitRefused, SubmitUncertain
from hpcrunner.sites.spec import JobSpec


class Crash(BaseException):
    """The process dies here: nothing catches it."""


def crash_after(batch: Batch, accept: Callable[[], Submission]) -> Submission:
    accept()
    raise Crash


def crash_before(batch: Batch, accept: Callable[[], Submission]) -> Submission:
    raise Crash


def time_out_after(batch: Batch, accept: Callable[[], Submission]) -> Submission:
    accept()
    raise SubmitUncertain("no answer in 30 s")


def time_out_before(batch: Batch, accept: Callable[[], Submission]) -> Submission:
    raise SubmitUncertain("no answer in 30 s")


def refuse(batch: Batch, accept: Callable[[], Submission]) -> Submission:
    raise SubmitRefused("no such partition")


def refuse_for_now(batch: Batch, accept: Callable[[], Submission]) -> Submission:
    raise SubmitRefused("submit limit reached", passing=True)


def taken(parts: Any, *bodies: bytes) -> None:
    for body in bodies:
        parts.pile.put(body)
    parts.intake.drain(1000)


def until_settled(parts: Any) -> None:
    """Rounds, a second apart, until nothing is left to submit."""
    for _ in range(300):
        parts.dispatch.step()
        parts.clock.forward(1.0)
        if parts.dispatch.wait() is None:
            return
    raise AssertionError("never settled")


@pytest.mark.parametrize("death", [crash_after, crash_before])
def test_a_crash_between_submit_and_journal_submits_nothing_twice(
    parts: Any, message: Callable[..., bytes], death: Any
) -> None:
    taken(parts, message("a"), message("b"))
    parts.scheduler.faults = [death]
    with pytest.raises(Crash):
        parts.dispatch.step()
    parts.start()
    until_settled(parts)
    assert list(parts.scheduler.reached.values()) == [1]
    assert [e.state for e in parts.journal.live()] == [State.PENDING, State.PENDING]
    assert all(e.job_id for e in parts.journal.live())


@pytest.mark.parametrize("death", ["write_batch", "begin_batch", "batch_submitted"])
def test_a_crash_at_any_write_of_a_submission_runs_it_once(
    parts: Any, message: Callable[..., bytes], death: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise Crash

    taken(parts, message("a"))
    owner = parts.spool if death == "write_batch" else parts.journal
    with monkeypatch.context() as patch:
        patch.setattr(owner, death, die)
        with pytest.raises(Crash):
            parts.dispatch.step()
    parts.start()
    until_settled(parts)
    assert sum(parts.scheduler.reached.values()) == 1
    assert parts.spool.batch_names() == [e.batch for e in parts.journal.live()]


@pytest.mark.parametrize("fault", [time_out_after, time_out_before])
def test_an_uncertain_answer_is_looked_up_before_anything_is_submitted_again(
    parts: Any, message: Callable[..., bytes], fault: Any
) -> None:
    taken(parts, message("a"))
    parts.scheduler.faults = [fault]
    until_settled(parts)
    assert list(parts.scheduler.reached.values()) == [1]
    (experiment,) = parts.journal.live()
    assert experiment.state is State.PENDING


def test_an_accepted_job_that_shows_late_is_waited_for(
    parts: Any, message: Callable[..., bytes]
) -> None:
    taken(parts, message("a"))
    parts.scheduler.faults = [time_out_after]
    parts.scheduler.visible = False
    for _ in range(30):
        parts.dispatch.step()
        parts.clock.forward(1.0)
    parts.scheduler.visible = True
    until_settled(parts)
    assert list(parts.scheduler.reached.values()) == [1]


def test_while_the_scheduler_cannot_be_asked_nothing_is_submitted_again(
    parts: Any, message: Callable[..., bytes]
) -> None:
    taken(parts, message("a"))
    parts.scheduler.faults = [time_out_after]
    parts.dispatch.step()
    parts.scheduler.available = False
    for _ in range(500):
        parts.dispatch.step()
        parts.clock.forward(10.0)
    assert sum(parts.scheduler.reached.values()) == 1
    parts.scheduler.available = True
    until_settled(parts)
    assert sum(parts.scheduler.reached.values()) == 1


def test_a_passing_refusal_is_tried_again_and_a_final_one_is_set_aside_with_its_reason(
    parts: Any, message: Callable[..., bytes]
) -> None:
    taken(parts, message("a"))
    parts.scheduler.faults = [refuse_for_now, refuse]
    parts.dispatch.step()
    assert parts.journal.live()[0].pending == "submit limit reached"
    until_settled(parts)
    (experiment,) = parts.journal.recent(10)
    assert (experiment.state, experiment.reason) == (State.REJECTED, Reason.SUBMIT_REFUSED)
    assert "no such partition" in experiment.text
    assert sum(parts.scheduler.reached.values()) == 0


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (JobSpec("gpu", 1, 2 << 30, gpus=2, gpu_type="h100"), "partition gpu, 1 CPU, 2 GiB, "),
        (JobSpec("gpu", 1, 2 << 30, gpus=2, gpu_type="h100"), "2 GPUs of type h100"),
        (JobSpec("", 4, gpus=1), "4 CPUs, 1 GPU"),
    ],
)
def test_a_refusal_tells_what_was_asked_for(spec: JobSpec, words: str) -> None:
    """Slurm says no more of it than that the node configuration is not available."""
    assert words in asked_for(spec)


def test_equal_shapes_that_wait_together_are_one_submission(
    parts: Any, message: Callable[..., bytes]
) -> None:
    taken(parts, *(message(f"e{i}") for i in range(300)), message("big", cpus=4))
    parts.dispatch.step()
    assert parts.scheduler.sizes == [300, 1]


def test_arrays_keep_within_the_sites_caps(parts: Any, message: Callable[..., bytes]) -> None:
    limits = parts.site.limits.model_copy(update={"max_array_tasks": 100, "max_jobs": 250})
    parts.site = parts.site.model_copy(update={"limits": limits})
    parts.start()
    taken(parts, *(message(f"e{i}") for i in range(300)))
    parts.dispatch.step()
    assert parts.scheduler.sizes == [100, 100, 50]


def test_submissions_keep_to_the_sites_rate(parts: Any, message: Callable[..., bytes]) -> None:
    from hpcrunner.sites.values import Rate

    limits = parts.site.limits.model_copy(update={"submit_rate": Rate(2, 1.0)})
    parts.site = parts.site.model_copy(update={"limits": limits})
    parts.start()
    taken(parts, *(message(f"e{i}", cpus=i) for i in range(1, 11)))
    sent = []
    for _ in range(5):
        parts.dispatch.step()
        sent.append(len(parts.scheduler.sizes))
        parts.clock.forward(1.0)
    assert sent == [2, 4, 6, 8, 10]


def test_the_plan_is_private_and_the_script_names_nothing_of_the_message(
    parts: Any, message: Callable[..., bytes]
) -> None:
    taken(parts, message("a"))
    parts.dispatch.step()
    (batch,) = parts.spool.batch_names()
    folder = parts.spool.batch_folder(batch)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "plan.json").stat().st_mode) == 0o600
    assert "hush-hush" in (folder / "plan.json").read_text()
    script = (folder / "script").read_text()
    assert "hush-hush" not in script
    assert "train.py" not in script


def test_a_full_disk_submits_nothing_and_loses_nothing(
    parts: Any, message: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken(parts, message("a"))

    def full(*_: object, **__: object) -> None:
        raise JournalError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(parts.journal, "begin_batch", full)
        with pytest.raises(JournalError):
            parts.dispatch.step()
    assert sum(parts.scheduler.reached.values()) == 0
    until_settled(parts)
    assert sum(parts.scheduler.reached.values()) == 1


def doubt(*_: object) -> Any:
    raise SubmitRefused("Job violates accounting/QOS policy", passing=True, doubtful=True)


def test_a_refusal_that_may_pass_holds_up_nobody_else(
    parts: Any, message: Callable[..., bytes]
) -> None:
    taken(parts, message("a"))
    parts.scheduler.faults = [doubt]
    parts.dispatch.step()
    taken(parts, message("b"))
    parts.dispatch.step()
    states = {e.key: e.state for e in parts.journal.live()}
    assert states == {"a": State.SUBMITTING, "b": State.PENDING}
    wait = parts.dispatch.wait()
    assert wait is not None
    assert wait > 30
    parts.clock.forward(wait)
    parts.dispatch.step()
    assert {e.state for e in parts.journal.live()} == {State.PENDING}


def test_a_refusal_that_never_passes_is_set_aside_in_the_end(
    parts: Any, message: Callable[..., bytes]
) -> None:
    taken(parts, message("a"))
    parts.scheduler.faults = [doubt] * 1000
    end = parts.clock() + parts.site.stuck_after + 120
    while parts.clock() < end:
        parts.dispatch.step()
        parts.clock.forward(10)
    (ended,) = parts.journal.aside()
    assert (ended.state, ended.reason) == (State.REJECTED, Reason.SUBMIT_REFUSED)
    assert "QOS policy" in ended.text
