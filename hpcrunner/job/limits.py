"""When an attempt must end, and what to call it. Pure: times come in, words go out.

All times are epoch seconds of the node's clock, all durations seconds.

What has to fit between a stop and the scheduler's SIGKILL, in this order::

    stop            the job's end less ``grace``; a signal; a client's or a duration's stop
    payload         payload_signal, then payload_grace: half of what is left at most
    the rest of it  SIGTERM to all where the first signal was another, LAST_CALL; SIGKILL
    saves           all artifacts at once, until RECORD_TIME before the kill
    record

The kill comes at the job's end, or ``kill_wait`` (slurm.conf, KillWait) after a SIGTERM, which
the scheduler sends with a cancellation, a preemption and the time limit alike. A SIGTERM tells
better than the planned end when the kill comes, so it replaces it.

A time limit that an administrator changes while the job runs is not seen: nothing in the job
changes with it, and asking the controller from every node is what sites forbid. A longer limit
is not used; of a shorter one the job learns by its SIGUSR1 or SIGTERM.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from hpcrunner.request.plan import NodeSetup
from hpcrunner.request.reasons import Reason
from hpcrunner.request.scheduler_words import NO_SCHEDULER, SchedulerWords, words_of

# A SIGTERM this close to the job's limit is the scheduler enforcing it: Slurm looks for jobs
# over their limit twice a minute only (slurm.conf(5), OverTimeLimit).
TERM_WINDOW = 60.0
# sbatch --signal=USR1@N may come a minute before its time (sbatch(1)).
EARLY = 60.0 + 30.0
LONGEST_SAVE = 600.0
RECORD_TIME = 3.0
LAST_CALL = 2.0  # between SIGTERM and SIGKILL where SIGTERM is not the payload's first signal


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a running attempt is to end. ``text`` is one line for people."""

    reason: Reason
    text: str


@dataclass(frozen=True, slots=True)
class Deadline:
    """A stop with the time from which it holds."""

    at: float
    stop: Stop


def job_start(environ: Mapping[str, str], process_started_at: float) -> float:
    """When the scheduler began to count the job's time.

    Some schedulers say so. Else it is the start of our process: that of the batch script, which
    has loaded the site's modules before it became us. What a site's Prolog took before that is
    not known.
    """
    with suppress(KeyError, ValueError):
        started = float(environ[words_of(environ).start])
        if 0 < started <= process_started_at:
            return started
    return process_started_at


def job_end(setup: NodeSetup, started_at: float, environ: Mapping[str, str]) -> float | None:
    """When the scheduler will kill the job that began at ``started_at``, None where unknown.

    As the scheduler says it, some do also where no limit was asked for; else the plan's limit.
    """
    with suppress(KeyError, ValueError):
        if (end := float(environ[words_of(environ).end])) > started_at:
            return end
    return None if setup.time_limit is None else started_at + setup.time_limit


def job_deadline(setup: NodeSetup, started_at: float, end: float) -> Deadline:
    """The moment to stop so that the results are saved before the scheduler's ``end``.

    A job much shorter than the site's grace still gets half of its time to run.
    """
    lead = min(setup.grace, max(0.0, end - started_at) / 2)
    text = f"reached the job's time limit of {duration(end - started_at)}"
    return Deadline(end - lead, Stop(Reason.TIME_LIMIT, text))


def lifetime_deadline(expires_at: float) -> Deadline:
    """The end of ``time_added + experimentLifetime``."""
    return Deadline(expires_at, Stop(Reason.LIFETIME_EXPIRED, "its lifetime has expired"))


def run_deadline(max_duration: float, payload_started_at: float) -> Deadline:
    """The end of ``max_duration``, counted from the start of the payload."""
    text = f"reached its max_duration of {duration(max_duration)}"
    return Deadline(payload_started_at + max_duration, Stop(Reason.MAX_DURATION, text))


def killed_at(
    signum: int,
    now: float,
    end: float | None,
    setup: NodeSetup,
    words: SchedulerWords = NO_SCHEDULER,
) -> float | None:
    """When the kill comes, now that this signal has come; None where nobody knows."""
    if signum in words.warnings:
        return now + setup.kill_wait
    if signum == signal.SIGUSR1 and end is None:
        return now + setup.grace
    return end


def payload_until(
    setup: NodeSetup, began: float, told_at: float | None, kill: float | None
) -> float:
    """Until when a payload that is to end since ``began`` may go on.

    ``kill`` is when the scheduler's SIGKILL comes, known since ``told_at`` where a signal told.
    """
    longest = began + setup.payload_grace
    if kill is None:
        return longest
    return min(longest, (max(began, told_at or began) + kill) / 2)


def saving_until(began: float, kill: float | None) -> float:
    """Until when a final save may try; a little is kept back for the record."""
    longest = began + LONGEST_SAVE
    if kill is None:
        return longest
    return min(longest, kill - min(RECORD_TIME, max(0.0, kill - began) / 4))


def meaning(
    signum: int,
    now: float,
    end: float | None,
    grace: float,
    words: SchedulerWords = NO_SCHEDULER,
) -> Stop | None:
    """What a signal from outside means; None: what the job's own deadline sees to anyway.

    ``end`` is when the scheduler will kill the job. SIGUSR1 at its time is sbatch's ``--signal``
    and announces that end; our own deadline is as good and up to EARLY seconds later, so the
    payload keeps that time. Where the end is unknown the announcement is all there is. Long
    before a known end it is somebody else's, or the limit was shortened.
    """
    name = signal.Signals(signum).name
    if signum == signal.SIGUSR1:
        if end is None:
            return Stop(Reason.TIME_LIMIT, f"the scheduler announced its time limit ({name})")
        if end - now <= grace + EARLY:
            return None
    if signum in words.warnings and end is not None and end - now <= TERM_WINDOW:
        return Stop(Reason.TIME_LIMIT, f"the scheduler ended it at its time limit ({name})")
    return Stop(Reason.CANCELLED, f"cancelled from outside ({name})")


def duration(seconds: float) -> str:
    """A duration as people write it: ``1h30m``, ``10m``, ``2.5s``."""
    whole = round(seconds)
    if abs(seconds - whole) > 0.05 and seconds < 60:
        return f"{seconds:.1f}s"
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    parts = [(hours, "h"), (minutes, "m"), (secs, "s")]
    return "".join(f"{value}{unit}" for value, unit in parts if value) or "0s"
