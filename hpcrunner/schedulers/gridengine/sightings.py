"""One sighting out of what the master and accounting say. Pure; the rules are the table.

1. A job that the master lists as waiting or running is that, whatever accounting says.
2. Any other job has ended where accounting says so. Where the master could not be asked, this
   holds for plain endings only: a failed host's job may have been started again.
3. A job that the master lists as over (a zombie) and accounting does not know yet is completing;
   if it stays so for longer than accounting may lag, it was deleted while it waited: Grid Engine
   accounts for no job that never ran.
4. A job that neither knows is NOT_FOUND, if both were asked and well. While accounting is away it
   is gone: what it left is all that can be had until accounting is back.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpcrunner.request.reasons import Reason
from hpcrunner.schedulers.contract import JobState, Sighting, Verdict
from hpcrunner.schedulers.gridengine import states
from hpcrunner.schedulers.gridengine.qacct import AccountedJob
from hpcrunner.schedulers.gridengine.qstat import LiveJob

NOT_FOUND = Sighting(Verdict.NOT_FOUND)
UNAVAILABLE = Sighting(Verdict.UNAVAILABLE)
_GONE = Sighting(Verdict.UNAVAILABLE, gone=True)
_REMOVED = Sighting(
    Verdict.FOUND, JobState.ENDED, "deleted while it waited", Reason.CANCELLED, accounted=True
)
_PLAIN = (Reason.COMPLETED, Reason.SCHEDULER_FAILED)
_UNDONE_BY_RESTART = frozenset({Reason.NODE_FAIL, Reason.LAUNCH_FAILED})


@dataclass(frozen=True, slots=True)
class Health:
    """Which witnesses answered. ``accounting`` is None where the site has none."""

    live: bool
    accounting: bool | None


def sighting(
    live: LiveJob | None, account: AccountedJob | None, health: Health, *, lingers: bool = False
) -> Sighting:
    """What both witnesses together say of one job; None is a witness that has no such job.

    ``lingers``: the job has been a zombie without an account for longer than accounting lags.
    """
    if live is not None and not states.over(live.word):
        return _of_live(live)
    if account is not None:
        seen = _of_account(account)
        undone = seen.reason in _UNDONE_BY_RESTART and not health.live
        return UNAVAILABLE if undone else seen
    if not health.live:
        return UNAVAILABLE
    if health.accounting is False:
        return _GONE
    if live is None or health.accounting is None:
        return NOT_FOUND
    return _REMOVED if lingers else _of_live(live)


def _of_live(job: LiveJob) -> Sighting:
    state = states.state_of(job.word)
    waiting = state is JobState.QUEUED
    return Sighting(
        verdict=Verdict.FOUND,
        state=state,
        word=job.word,
        node=job.node,
        pending=states.pending(job.word) if waiting else "",
        stuck=waiting and states.stuck(job.word),
        started_at=None if waiting else job.started_at,
    )


def _of_account(run: AccountedJob) -> Sighting:
    reason = states.reason_of(
        run.failed,
        run.exit_status,
        deleted=run.deleted,
        over_time=run.over_time,
        over_memory=run.over_memory,
    )
    signal = states.signal_of(run.failed, run.exit_status)
    return Sighting(
        verdict=Verdict.FOUND,
        state=JobState.ENDED,
        word=f"failed {run.failed}: {run.failed_text}" if run.failed else "",
        reason=reason,
        exit_code=run.exit_status if reason in _PLAIN and signal is None else None,
        signal=signal,
        node=run.node,
        started_at=run.started_at,
        ended_at=run.ended_at,
        accounted=True,
    )
