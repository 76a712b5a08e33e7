"""How an attempt ended, and the exit status that says so. Pure.

Exit status of ``python -m hpcrunner.job``:

====  ==========================================================================
0     COMPLETED; also a duplicate that ended without touching anything
n     PAYLOAD_EXIT: the payload's own
128+n PAYLOAD_SIGNAL: the payload ended by signal n; CANCELLED is 143, as of SIGTERM
124   MAX_DURATION and TIME_LIMIT, as timeout(1) has it
127   PAYLOAD_NOT_STARTED
137   OUT_OF_MEMORY, as of the SIGKILL that the kernel sends
65    ARTIFACT_REFUSED, DISK_BUDGET; a plan that cannot be read
66    ARTIFACT_NOT_FOUND
69    STORE_UNREACHABLE, CONTAINER_FAILED
70    JOB_SIDE_FAULT
71    GPUS_MISSING
73    NO_ROOM
74    UPLOAD_FAILED
75    LIFETIME_EXPIRED
77    ARTIFACT_DENIED
78    ENVIRONMENT_FAILED
====  ==========================================================================

The record says more; the status serves people who look at the scheduler alone. One by which a job
would ask its scheduler for something is 1 instead (request/scheduler_words.py).
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from hpcrunner.errors import HpcrunnerError
from hpcrunner.job.limits import Stop
from hpcrunner.request.plan import PlannedExperiment
from hpcrunner.request.reasons import Reason

_STATUS = {
    Reason.COMPLETED: 0,
    Reason.CANCELLED: 128 + signal.SIGTERM,
    Reason.MAX_DURATION: 124,
    Reason.TIME_LIMIT: 124,
    Reason.PAYLOAD_NOT_STARTED: 127,
    Reason.OUT_OF_MEMORY: 128 + signal.SIGKILL,
    Reason.ARTIFACT_REFUSED: 65,
    Reason.DISK_BUDGET: 65,
    Reason.ARTIFACT_NOT_FOUND: 66,
    Reason.STORE_UNREACHABLE: 69,
    Reason.CONTAINER_FAILED: 69,
    Reason.GPUS_MISSING: 71,
    Reason.NO_ROOM: 73,
    Reason.UPLOAD_FAILED: 74,
    Reason.LIFETIME_EXPIRED: 75,
    Reason.ARTIFACT_DENIED: 77,
    Reason.ENVIRONMENT_FAILED: 78,
}
FAULT_STATUS = 70
# What schedulers send to every process of a job that is to end.
_FROM_SCHEDULERS = (signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


STOPPED_BY_CLIENT = Stop(Reason.CANCELLED, "stopped by the client")


@dataclass(frozen=True, slots=True)
class Ending:
    """The reason, one line for people, and what the payload's process ended with, if it ran."""

    reason: Reason
    text: str
    exit_code: int | None = None
    signal: int | None = None

    @property
    def status(self) -> int:
        """Our own exit status."""
        if self.reason is Reason.PAYLOAD_EXIT and self.exit_code is not None:
            return self.exit_code
        if self.reason is Reason.PAYLOAD_SIGNAL and self.signal is not None:
            return 128 + self.signal
        return _STATUS.get(self.reason, FAULT_STATUS)


class Outlook(Enum):
    """Whether the experiment is over with this attempt."""

    FINAL = "final"
    FOLLOWED = "followed"  # the gateway will make another attempt
    OPEN = "open"  # only the gateway can tell a cancellation from a preemption


def outlook_of(reason: Reason, text: str, experiment: PlannedExperiment, now: float) -> Outlook:
    """The outlook after an ending for that reason with that text, by the plan's budgets."""
    if reason is Reason.CANCELLED and not text.startswith(STOPPED_BY_CLIENT.text):
        return Outlook.OPEN
    followed = experiment.retries.follows(reason, experiment.expires_at, now)
    return Outlook.FOLLOWED if followed else Outlook.FINAL


def ending_of(code: int, stop: Stop | None) -> Ending:
    """The ending of a payload that ran: its return code (negative: signal), and who stopped it."""
    exit_code, signum = (code, None) if code >= 0 else (None, -code)
    if stop is not None:
        return Ending(stop.reason, stop.text, exit_code, signum)
    if signum is not None:
        return Ending(Reason.PAYLOAD_SIGNAL, f"ended by {_name(signum)}", None, signum)
    reason = Reason.COMPLETED if code == 0 else Reason.PAYLOAD_EXIT
    return Ending(reason, f"ended with exit code {code}", code)


def ending_by(error: HpcrunnerError) -> Ending:
    """The ending of an attempt that an error kept from running, by the error's own reason."""
    reason = getattr(error, "reason", Reason.JOB_SIDE_FAULT)
    return Ending(reason, error.line())


def looks_killed(code: int) -> bool:
    """Whether a return code may come from a signal that went to us as well.

    Schedulers signal all processes of a job, and the payload may be gone before we hear of it.
    """
    return code in {-s for s in _FROM_SCHEDULERS} | {128 + s for s in _FROM_SCHEDULERS}


def with_memory(ending: Ending, witness: str | None) -> Ending:
    """The ending of a payload of which the kernel killed a process for its memory.

    Even exit code 0 is no success then: what was killed is missing from the results.
    """
    own = (Reason.COMPLETED, Reason.PAYLOAD_EXIT, Reason.PAYLOAD_SIGNAL)
    if witness is None or ending.reason not in own:
        return ending
    return replace(ending, reason=Reason.OUT_OF_MEMORY, text=f"{witness}; {ending.text}")


def with_unsaved(ending: Ending, failures: Sequence[str]) -> Ending:
    """The ending with results that did not get out: a success no longer is one."""
    if not failures:
        return ending
    text = "; ".join(failures)
    if ending.reason is Reason.COMPLETED:
        return replace(ending, reason=Reason.UPLOAD_FAILED, text=text)
    return replace(ending, text=f"{ending.text}; {text}")


def _name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"
