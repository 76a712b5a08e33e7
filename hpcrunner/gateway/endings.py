"""How an experiment ended: one table of rules over what its witnesses say. Pure.

The witnesses are the job side's own record and the scheduler (its live queue and accounting,
already merged into one Sighting). Nothing here ends an experiment because somebody could not
be asked.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hpcrunner.gateway.experiment import Outcome, State
from hpcrunner.request.reasons import Reason
from hpcrunner.request.record import Record
from hpcrunner.schedulers.contract import JobState, Sighting, Verdict

# The scheduler's words that a record of success does not outweigh: the kernel may have killed a
# part of the payload that its own exit code does not show.
CONTRARY = frozenset(
    {
        Reason.OUT_OF_MEMORY,
        Reason.TIME_LIMIT,
        Reason.NODE_FAIL,
        Reason.BOOT_FAIL,
        Reason.LAUNCH_FAILED,
        Reason.PREEMPTED,
        Reason.DEADLINE,
    }
)
# What a payload looks like when something outside it ended it.
_BLURRED = frozenset({Reason.PAYLOAD_EXIT, Reason.PAYLOAD_SIGNAL, Reason.CANCELLED})

_WORDS = {
    Reason.TIME_LIMIT: "reached the job's time limit",
    Reason.OUT_OF_MEMORY: "ran out of the memory it asked for",
    Reason.NODE_FAIL: "its node failed",
    Reason.BOOT_FAIL: "its node did not boot",
    Reason.LAUNCH_FAILED: "the scheduler could not launch it",
    Reason.PREEMPTED: "was preempted by another job",
    Reason.DEADLINE: "reached the scheduler's deadline before it could end",
    Reason.CANCELLED: "was cancelled",
    Reason.SCHEDULER_FAILED: "ended without leaving a record",
}
_LAST_LINE_WIDTH = 160


@dataclass(frozen=True, slots=True)
class Patience:
    """How long each witness may keep us waiting, in seconds.

    ``record`` after the scheduler has ended the job: a shared file system shows files late.
    ``accounting`` after both the record and the live queue have spoken. ``absence``: continuous,
    healthy absence of a job that left no record, before it counts as lost. ``outage``: for how
    long accounting is waited for that cannot be asked, where there is a record. ``stuck``: for
    how long a job may wait for what does not pass by itself.
    """

    record: float
    accounting: float
    absence: float
    has_accounting: bool
    outage: float = 3600.0
    stuck: float = 3600.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one job, and since when (gateway clock, epoch seconds)."""

    sighting: Sighting
    record: Record | None = None
    ended_since: float | None = None  # the scheduler has said ENDED since
    absent_since: float | None = None  # every witness was healthy and none knew it since
    gone_since: float | None = None  # the live queue knew it no more, accounting was away since
    stuck_since: float | None = None  # it has waited for what does not pass by itself since
    cancel_wished: bool = False


def judge(evidence: Evidence, patience: Patience, now: float) -> Outcome | None:
    """The outcome, or None while a witness may still have to say something."""
    seen, record = evidence.sighting, evidence.record
    if seen.verdict is Verdict.UNAVAILABLE:
        gone = now - (evidence.gone_since if evidence.gone_since is not None else now)
        # Only what the job itself has said may end it then: absence proves nothing now.
        return _by_record(record) if record is not None and gone >= patience.outage else None
    if seen.verdict is Verdict.NOT_FOUND:
        absent = now - (evidence.absent_since if evidence.absent_since is not None else now)
        if record is not None and absent >= patience.accounting * patience.has_accounting:
            return _by_record(record)
        if record is None and evidence.cancel_wished and absent >= patience.record:
            # Slurm forgets array tasks that were cancelled while they waited.
            return Outcome(State.CANCELLED, Reason.CANCELLED, _WORDS[Reason.CANCELLED])
        if record is None and absent >= patience.absence:
            return Outcome(
                State.LOST,
                Reason.LOST,
                f"the scheduler has not known the job for {absent:.0f} s and it left no record",
            )
        return None
    if seen.state is JobState.QUEUED and seen.stuck and evidence.stuck_since is not None:
        return _by_waiting(seen) if now - evidence.stuck_since >= patience.stuck else None
    if seen.state is not JobState.ENDED:
        return None
    since_end = now - (evidence.ended_since if evidence.ended_since is not None else now)
    if record is None:
        # A job that never had a node leaves no record: there is nothing to wait for.
        if seen.node and since_end < patience.record:
            return None
        return _by_scheduler(seen)
    if patience.has_accounting and not seen.accounted and since_end < patience.accounting:
        return None
    return _by_both(record, seen)


def _by_waiting(seen: Sighting) -> Outcome:
    """A job that can never start. Whoever ends it so takes it out of the queue as well."""
    if seen.pending.startswith("launch failed"):
        text = f"{_WORDS[Reason.LAUNCH_FAILED]} ({seen.pending})"
        return Outcome(State.FAILED, Reason.LAUNCH_FAILED, text, node=seen.node)
    text = f"the scheduler took it but can never start it ({seen.pending})"
    return Outcome(State.REJECTED, Reason.SUBMIT_REFUSED, text)


def _by_both(record: Record, seen: Sighting) -> Outcome:
    outcome = _by_record(record)
    if seen.reason in CONTRARY and (record.succeeded or record.reason in _BLURRED):
        return _with(outcome, State.FAILED, seen.reason, _scheduler_text(seen), seen)
    return _with(outcome, outcome.state, outcome.reason, outcome.text, seen)


def _by_record(record: Record) -> Outcome:
    if record.succeeded:
        state = State.SUCCEEDED
    elif record.reason is Reason.CANCELLED:
        state = State.CANCELLED
    else:
        state = State.FAILED
    text = record.text
    last = next((line.strip() for line in reversed(record.last_lines) if line.strip()), "")
    if record.reason in _BLURRED and last:
        text = f"{text}; last line: {last[:_LAST_LINE_WIDTH]}"
    return Outcome(
        state=state,
        reason=record.reason,
        text=text,
        exit_code=record.exit_code,
        node=record.host,
        started_at=record.started_at or None,
        ended_at=record.ended_at or None,
    )


def _by_scheduler(seen: Sighting) -> Outcome:
    reason = seen.reason
    if reason in (None, Reason.COMPLETED):
        # Without the record nobody knows whether the payload ran, so this is no success.
        reason = Reason.SCHEDULER_FAILED
    return Outcome(
        state=State.CANCELLED if reason is Reason.CANCELLED else State.FAILED,
        reason=reason or Reason.SCHEDULER_FAILED,
        text=_scheduler_text(seen),
        exit_code=seen.exit_code,
        node=seen.node,
        started_at=seen.started_at,
        ended_at=seen.ended_at,
    )


def _scheduler_text(seen: Sighting) -> str:
    words = _WORDS.get(seen.reason or Reason.SCHEDULER_FAILED, _WORDS[Reason.SCHEDULER_FAILED])
    detail = [seen.word] if seen.word else []
    if seen.exit_code:
        detail.append(f"exit code {seen.exit_code}")
    if seen.signal:
        # Where Slurm keeps memory without cgroups it does not say what it killed a job for.
        hint = ", as for too much memory" if seen.signal == signal.SIGKILL else ""
        detail.append(f"signal {seen.signal}{hint}")
    if seen.node:
        detail.append(f"on {seen.node}")
    return f"{words} ({', '.join(detail)})" if detail else words


def _with(base: Outcome, state: State, reason: Reason, text: str, seen: Sighting) -> Outcome:
    return Outcome(
        state=state,
        reason=reason,
        text=text,
        exit_code=base.exit_code,
        node=seen.node or base.node,
        started_at=base.started_at or seen.started_at,
        ended_at=base.ended_at or seen.ended_at,
    )


def with_unsaved(outcome: Outcome, unsaved: Sequence[str]) -> Outcome:
    """An outcome with results that did not get out: a success no longer is one."""
    if not unsaved:
        return outcome
    text = "; ".join(unsaved)
    if outcome.state is State.SUCCEEDED:
        return replace(outcome, state=State.FAILED, reason=Reason.UPLOAD_FAILED, text=text)
    return replace(outcome, text=f"{outcome.text}; {text}")
