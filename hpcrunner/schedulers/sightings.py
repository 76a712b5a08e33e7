"""One sighting out of what the controller and accounting say. Pure; the rules are the table.

1. A job that the controller shows alive is alive, whatever accounting says.
2. A job that the controller shows ended has ended; accounting's word is better where it has one.
3. A job that a healthy controller no longer knows has ended where accounting says so, and is
   NOT_FOUND where it does not: "running" in accounting alone is an account never closed.
4. A task of an accounted array that a healthy controller does not know and that has no account
   was cancelled while it waited: Slurm takes such tasks out of the array without a trace.
5. A job that a healthy controller no longer knows while accounting is away is gone: what it left
   is all that can be had until accounting is back.
6. Where the controller could not be asked, accounting's endings count, save those that a
   requeue may undo; all that is left is UNAVAILABLE.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hpcrunner.request.reasons import Reason
from hpcrunner.schedulers.contract import JobState, Sighting, Verdict
from hpcrunner.schedulers.sacct import AccountedJob
from hpcrunner.schedulers.squeue import LiveJob
from hpcrunner.schedulers.states import UNDONE_BY_REQUEUE, meaning, never_starts

NOT_FOUND = Sighting(Verdict.NOT_FOUND)
UNAVAILABLE = Sighting(Verdict.UNAVAILABLE)
_GONE = Sighting(Verdict.UNAVAILABLE, gone=True)
_REMOVED = Sighting(Verdict.FOUND, JobState.ENDED, "CANCELLED", Reason.CANCELLED, accounted=True)

# Words that say no more than that the script ended; any other word knows better.
_PLAIN = (Reason.COMPLETED, Reason.SCHEDULER_FAILED)
_HIGHEST_SIGNAL = 64  # Slurm reports pseudo signals above it, 125 for out of memory


@dataclass(frozen=True, slots=True)
class Health:
    """Which witnesses answered. ``accounting`` is None where the site has none."""

    live: bool
    accounting: bool | None


def sighting(
    live: LiveJob | None, account: AccountedJob | None, health: Health, *, removed: bool = False
) -> Sighting:
    """What both witnesses together say of one job; None is a witness that has no such job.

    ``removed``: accounting has the task's array, without the task.
    """
    if live is not None:
        seen = _of_live(live)
        if seen.state is not JobState.ENDED or account is None:
            return seen
        return _better(seen, _of_account(account))
    if account is not None:
        seen = _of_account(account)
        if seen.state is JobState.ENDED:
            # A requeued job has an ended account for a moment; the controller knows better.
            undone = seen.reason in UNDONE_BY_REQUEUE and not health.live
            return UNAVAILABLE if undone else seen
        return NOT_FOUND if health.live else seen
    if not health.live:
        return UNAVAILABLE
    if health.accounting is False:
        return _GONE
    return _REMOVED if removed else NOT_FOUND


def _of_live(job: LiveJob) -> Sighting:
    said = meaning(job.word)
    waiting = said.state is JobState.QUEUED
    return Sighting(
        verdict=Verdict.FOUND,
        state=said.state,
        word=job.word,
        reason=said.reason,
        node=job.node,
        pending=job.pending if waiting and job.pending != "None" else "",
        stuck=waiting and never_starts(job.pending),
        # For a job that never had a node this column is an expectation, or the end.
        started_at=None if waiting or not job.node else job.started_at,
    )


def _of_account(job: AccountedJob) -> Sighting:
    said = meaning(job.word)
    reason, word = said.reason, job.word
    if "OUT_OF_MEMORY" in job.step_words and reason in (*_PLAIN, Reason.TIME_LIMIT):
        reason, word = Reason.OUT_OF_MEMORY, "OUT_OF_MEMORY"
    signalled = said.ended and 0 < job.signal <= _HIGHEST_SIGNAL
    return Sighting(
        verdict=Verdict.FOUND,
        state=said.state,
        word=word,
        reason=reason,
        # Slurm gives 0 to many a job that somebody else ended.
        exit_code=job.exit_code if reason in _PLAIN and job.signal == 0 else None,
        signal=job.signal if signalled else None,
        node=job.node,
        # A job that was cancelled while it waited may have its end here.
        started_at=job.started_at if job.node else None,
        ended_at=job.ended_at,
        accounted=True,
    )


def _better(live: Sighting, account: Sighting) -> Sighting:
    """Two endings of one job, or an ending that accounting has not heard of yet."""
    if account.state is not JobState.ENDED:
        return live
    seen = replace(account, node=account.node or live.node)
    if account.reason in _PLAIN and live.reason not in _PLAIN:
        return replace(seen, reason=live.reason, word=live.word)
    return seen
