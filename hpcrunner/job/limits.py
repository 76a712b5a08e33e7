"""When an attempt must end, and what to call it. Pure: times come in, words go out.

All times are epoch seconds of the node's clock, all durations seconds.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from hpcrunner.request.plan import NodeSetup
from hpcrunner.request.reasons import Reason

# A SIGTERM this close to the job's limit is the scheduler enforcing it (slurm.conf, KillWait).
TERM_WINDOW = 60.0
# sbatch --signal=USR1@N exists to announce the limit N seconds ahead, and may come up to a
# minute early (sbatch(1)); much further from the limit it is somebody else's signal.
USR1_WINDOW = 600.0
LONGEST_SAVE = 600.0
RECORD_TIME = 3.0


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


def job_end(setup: NodeSetup, started_at: float, environ: Mapping[str, str]) -> float | None:
    """When the scheduler will kill the job, or None where nothing limits it.

    The earlier of the plan's limit counted from ``started_at`` and SLURM_JOB_END_TIME, which
    newer releases of Slurm set (sbatch(1)); 22.05 and older leave only our own clock.
    """
    ends = []
    if setup.time_limit is not None:
        ends.append(started_at + setup.time_limit)
    with suppress(KeyError, ValueError):
        ends.append(float(environ["SLURM_JOB_END_TIME"]))
    return min(ends, default=None)


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


def saving_until(now: float, end: float | None, signalled_at: float | None, grace: float) -> float:
    """Until when a final save that began ``now`` may try: the time before somebody kills us.

    After a signal that is ``grace`` seconds; Slurm's KillWait is 30 by default (slurm.conf(5)).
    A little is kept back for the record.
    """
    kills = [end] if end is not None else []
    if signalled_at is not None:
        kills.append(signalled_at + grace)
    return min([now + LONGEST_SAVE, *(kill - min(RECORD_TIME, grace / 10) for kill in kills)])


def reason_for(signum: int, now: float, end: float | None) -> Stop:
    """What a signal from outside means, ``end`` being when the scheduler will kill the job."""
    name = signal.Signals(signum).name
    left = None if end is None else end - now
    window = USR1_WINDOW if signum == signal.SIGUSR1 else TERM_WINDOW
    if left is not None and left <= window and signum in (signal.SIGTERM, signal.SIGUSR1):
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
