"""Whose failure a reason is, and whether another attempt follows it. Pure.

The gateway decides by these rules; the job side, which has to tell the client before the gateway
has looked, predicts by the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hpcrunner.request.reasons import Reason


class Fault(Enum):
    """Whose failure it was."""

    INFRASTRUCTURE = "infrastructure"
    PAYLOAD = "payload"
    NONE = "none"  # another attempt would end the same way, or is not wanted


_INFRASTRUCTURE = frozenset(
    {
        Reason.NODE_FAIL,
        Reason.BOOT_FAIL,
        Reason.LAUNCH_FAILED,
        Reason.PREEMPTED,
        Reason.SCHEDULER_FAILED,
        Reason.JOB_SIDE_FAULT,
        Reason.CONTAINER_FAILED,
        Reason.GPUS_MISSING,
        Reason.NO_ROOM,
        Reason.STORE_UNREACHABLE,
        Reason.UPLOAD_FAILED,
        Reason.LOST,
    }
)
_PAYLOAD = frozenset(
    {
        Reason.PAYLOAD_EXIT,
        Reason.PAYLOAD_SIGNAL,
        Reason.MAX_DURATION,
        Reason.TIME_LIMIT,
        Reason.OUT_OF_MEMORY,
        Reason.DEADLINE,
        Reason.ENVIRONMENT_FAILED,
    }
)


def fault_of_reason(reason: Reason) -> Fault:
    """Whose failure an ending of that reason is."""
    if reason in _INFRASTRUCTURE:
        return Fault.INFRASTRUCTURE
    return Fault.PAYLOAD if reason in _PAYLOAD else Fault.NONE


@dataclass(frozen=True, slots=True)
class RetriesLeft:
    """How many attempts may follow this one, by whose fault it fails, and after what pause (s)."""

    infrastructure: int = 0
    payload: int = 0
    infrastructure_pause: float = 0.0
    payload_pause: float = 0.0

    def follows(self, reason: Reason, expires_at: float | None, now: float) -> bool:
        """Whether an attempt that ended now for that reason is followed by another.

        ``expires_at`` is the end of the experiment's lifetime (epoch seconds), None for none.
        """
        fault = fault_of_reason(reason)
        if fault is Fault.NONE:
            return False
        by_infrastructure = fault is Fault.INFRASTRUCTURE
        left = self.infrastructure if by_infrastructure else self.payload
        pause = self.infrastructure_pause if by_infrastructure else self.payload_pause
        return left > 0 and (expires_at is None or expires_at > now + pause)


NO_RETRIES = RetriesLeft()
