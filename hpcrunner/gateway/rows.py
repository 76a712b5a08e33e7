"""The journal's rows as values, and back. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from hpcrunner.gateway.experiment import EndedAttempt, Experiment, Outcome, Reports, State
from hpcrunner.request.reasons import Reason
from hpcrunner.sites.spec import JobSpec

COLUMNS = (
    "id, key, queue, state, received_at, attempt, spec, batch, task, job_id, reason, text, "
    "exit_code, node, pending, submitted_at, started_at, ended_at, owner, project, not_before, "
    "infrastructure_failures, payload_failures, aside, retried_as, server, reports, rule"
)
ATTEMPT_COLUMNS = (
    "attempt, batch, task, job_id, state, reason, text, exit_code, node, submitted_at, "
    "started_at, ended_at"
)
_NAMES = tuple(COLUMNS.split(", "))


def spec_text(spec: JobSpec) -> str:
    """A spec as JSON text; equal specs have equal texts."""
    return json.dumps(asdict(spec), sort_keys=True)


@lru_cache(maxsize=1024)  # thousands of experiments share a few shapes
def spec_of(text: str) -> JobSpec:
    """What ``spec_text`` wrote, by this version or an older one."""
    raw: dict[str, Any] = json.loads(text)
    lists = {name: tuple(value) for name, value in raw.items() if isinstance(value, list)}
    return JobSpec(**{**raw, **lists})


def experiment_of(row: tuple[Any, ...]) -> Experiment:
    """A row of COLUMNS."""
    values = dict(zip(_NAMES, row, strict=True))
    spec, reason = values["spec"], values["reason"]
    return Experiment(
        **{
            **values,
            "state": State(values["state"]),
            "spec": spec_of(spec) if spec else None,
            "reason": Reason(reason) if reason else None,
            "aside": bool(values["aside"]),
            "reports": Reports(values["reports"]),
        }
    )


def attempt_of(row: tuple[Any, ...]) -> EndedAttempt:
    """A row of ATTEMPT_COLUMNS."""
    attempt, batch, task, job_id, state, reason, *rest = row
    return EndedAttempt(attempt, batch, task, job_id, State(state), Reason(reason), *rest)


def attempt_values(e: Experiment, o: Outcome, now: float) -> tuple[object, ...]:
    """The values of ATTEMPT_COLUMNS for an attempt that ended so."""
    return (
        *(e.attempt, e.batch, e.task, e.job_id, o.state.value, o.reason.value, o.text),
        *(o.exit_code, o.node or e.node, e.submitted_at),
        o.started_at if o.started_at is not None else e.started_at,
        o.ended_at if o.ended_at is not None else now,
    )
