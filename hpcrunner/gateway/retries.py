"""Whether an attempt that failed is followed by another: by whose fault, and how often. Pure.

Failures of the infrastructure and of the payload are counted apart, each against a budget of
the site, which the request may lower. What cannot end otherwise next time (an archive that is
refused, an artifact that is not there) is not tried again, nor is what somebody cancelled.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from hpcrunner.gateway.experiment import Experiment, Outcome, State
from hpcrunner.gateway.journal import NextAttempt
from hpcrunner.request.model import RetryWish
from hpcrunner.request.reasons import Reason
from hpcrunner.sites.parts import Retries

MOST_EXCLUDED = 16  # a list of nodes has to fit into an option


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
# After these the next attempt keeps off the node: what failed was on it.
NODE_AT_FAULT = frozenset(
    {
        Reason.NODE_FAIL,
        Reason.BOOT_FAIL,
        Reason.LAUNCH_FAILED,
        Reason.SCHEDULER_FAILED,
        Reason.JOB_SIDE_FAULT,
    }
)


def fault_of(outcome: Outcome) -> Fault:
    """Whose failure an outcome is."""
    if outcome.state not in (State.FAILED, State.LOST):
        return Fault.NONE
    if outcome.reason in _INFRASTRUCTURE:
        return Fault.INFRASTRUCTURE
    return Fault.PAYLOAD if outcome.reason in _PAYLOAD else Fault.NONE


@dataclass(frozen=True, slots=True)
class Wish:
    """What the request has to say: its budgets, and the end of its lifetime (epoch seconds)."""

    retries: RetryWish = field(default_factory=RetryWish)
    expires_at: float | None = None


def next_attempt(
    experiment: Experiment, outcome: Outcome, policy: Retries, wish: Wish, now: float
) -> NextAttempt | None:
    """The attempt that follows, or None where this outcome is the experiment's own."""
    fault = fault_of(outcome)
    if fault is Fault.NONE or experiment.spec is None:
        return None
    infrastructure = experiment.infrastructure_failures + (fault is Fault.INFRASTRUCTURE)
    payload = experiment.payload_failures + (fault is Fault.PAYLOAD)
    if fault is Fault.INFRASTRUCTURE:
        count, most = infrastructure, _least(policy.infrastructure, wish.retries.infrastructure)
    else:
        count, most = payload, _least(policy.payload, wish.retries.payload)
    pause = backoff(policy, count)
    if count > most or (wish.expires_at is not None and wish.expires_at <= now + pause):
        return None
    spec = experiment.spec
    node = outcome.node or experiment.node
    if policy.exclude_nodes and outcome.reason in NODE_AT_FAULT and node:
        spec = replace(spec, exclude=_with(spec.exclude, node))
    return NextAttempt(
        experiment=experiment,
        outcome=outcome,
        spec=spec,
        not_before=now + pause,
        infrastructure_failures=infrastructure,
        payload_failures=payload,
        text=f"attempt {experiment.attempt} ended with {outcome.reason.value}; attempt "
        f"{experiment.attempt + 1} ({fault.value} failure {count} of at most {most})",
    )


def backoff(policy: Retries, failures: int) -> float:
    """Seconds before the attempt that follows that many failures of one kind."""
    return min(policy.longest_backoff, policy.backoff * 2.0 ** min(failures - 1, 60))


def exhausted(experiment: Experiment, outcome: Outcome) -> str:
    """What to add to the text of an outcome that ends several attempts."""
    failures = experiment.infrastructure_failures + experiment.payload_failures
    if failures == 0 or fault_of(outcome) is Fault.NONE:
        return ""
    return f"; attempt {experiment.attempt}, and no further one is due"


def _least(site: int, wish: int | None) -> int:
    return site if wish is None else min(site, wish)


def _with(excluded: tuple[str, ...], node: str) -> tuple[str, ...]:
    return tuple(sorted({*excluded, node}))[:MOST_EXCLUDED] if node else excluded
