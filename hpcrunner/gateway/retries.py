"""Whether an attempt that failed is followed by another: by whose fault, and how often. Pure.

Failures of the infrastructure and of the payload are counted apart, each against a budget of
the site, which the request may lower. What cannot end otherwise next time (an archive that is
refused, an artifact that is not there) is not tried again, nor is what somebody cancelled.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hpcrunner.gateway.experiment import Experiment, Outcome, State
from hpcrunner.gateway.journal import NextAttempt
from hpcrunner.request.faults import Fault, RetriesLeft, fault_of_reason
from hpcrunner.request.model import RetryWish
from hpcrunner.request.reasons import Reason
from hpcrunner.sites.parts import Retries

MOST_EXCLUDED = 16  # a list of nodes has to fit into an option

# After these the next attempt keeps off the node: what failed was on it.
NODE_AT_FAULT = frozenset(
    {
        Reason.NODE_FAIL,
        Reason.BOOT_FAIL,
        Reason.LAUNCH_FAILED,
        Reason.SCHEDULER_FAILED,
        Reason.JOB_SIDE_FAULT,
        Reason.GPUS_MISSING,
        Reason.CONTAINER_FAILED,
    }
)


def fault_of(outcome: Outcome) -> Fault:
    """Whose failure an outcome is."""
    if outcome.state not in (State.FAILED, State.LOST):
        return Fault.NONE
    return fault_of_reason(outcome.reason)


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


def retries_left(experiment: Experiment, policy: Retries, wish: RetryWish) -> RetriesLeft:
    """What ``next_attempt`` will allow after the present attempt: for the job side."""
    infrastructure, payload = experiment.infrastructure_failures, experiment.payload_failures
    return RetriesLeft(
        infrastructure=_left(policy.infrastructure, wish.infrastructure, infrastructure),
        payload=_left(policy.payload, wish.payload, payload),
        infrastructure_pause=backoff(policy, infrastructure + 1),
        payload_pause=backoff(policy, payload + 1),
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


def _left(site: int, wish: int | None, failures: int) -> int:
    return max(0, _least(site, wish) - failures)


def _with(excluded: tuple[str, ...], node: str) -> tuple[str, ...]:
    return tuple(sorted({*excluded, node}))[:MOST_EXCLUDED] if node else excluded
