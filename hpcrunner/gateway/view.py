"""An experiment as people and machines read it: plain values, no secrets. Pure but for reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.experiment import Experiment, State, ending_words
from hpcrunner.gateway.reader import Reader
from hpcrunner.gateway.spool import Spool
from hpcrunner.request.reasons import Reason
from hpcrunner.request.record import Record, RecordError, record_from_json


class NoSuchExperiment(HpcrunnerError):
    """No experiment, or more than one, answers to a name."""

    exit_code = 66  # EX_NOINPUT


def choose(journal: Reader, name: str) -> Experiment:
    """The experiment of that id, start of an id, or client's key (the latest of that key).

    Raises NoSuchExperiment where none or several different ones answer.
    """
    return choose_from(journal.find(name), name)


def choose_from(found: Sequence[Experiment], name: str) -> Experiment:
    """The one of these, oldest first, that a name means. Raises NoSuchExperiment."""
    if not found:
        raise NoSuchExperiment(
            f"no experiment '{name}'", remedy="'hpcrunner status' lists those there are"
        )
    exact = [e for e in found if name in (e.id, e.key)]
    if not exact and len(found) > 1:
        raise NoSuchExperiment(
            f"'{name}' could be {', '.join(e.id for e in found[:5])}",
            remedy="give more of the id",
        )
    return (exact or found)[-1]


def log_path(spool: Spool, experiment: Experiment) -> Path | None:
    """The scheduler's output file of an experiment: job-side notes and the payload's output."""
    if not experiment.batch:
        return None
    return spool.log(experiment.batch, experiment.task)


def record_of(spool: Spool, experiment: Experiment) -> Record | None:
    """The job side's record, where there is one that can be read."""
    if not experiment.batch:
        return None
    path = spool.record(experiment.batch, experiment.task)
    try:
        return record_from_json(path.read_text(encoding="utf-8"), where=str(path))
    except (OSError, UnicodeDecodeError, RecordError):
        return None


def phase_of(spool: Spool, experiment: Experiment) -> str:
    """What the job side last said it was doing (``fetching``, ``running`` …), or nothing."""
    if not experiment.batch or experiment.state.final:
        return ""
    path = spool.events(experiment.batch, experiment.task)
    try:
        last = path.read_text(encoding="utf-8").rstrip("\n").rpartition("\n")[2]
        return str(json.loads(last)["event"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def summary(experiment: Experiment) -> dict[str, Any]:
    """One experiment as JSON-able values, for ``--json``."""
    return {
        "id": experiment.id,
        "key": experiment.key,
        "queue": experiment.queue,
        "state": experiment.state.value,
        "reason": experiment.reason.value if experiment.reason else None,
        "text": experiment.text,
        "exit_code": experiment.exit_code,
        "attempt": experiment.attempt,
        "dead": experiment.aside,
        "retried_as": experiment.retried_as or None,
        "job_id": experiment.job_id or None,
        "node": experiment.node or None,
        "pending": experiment.pending or None,
        "received_at": experiment.received_at,
        "submitted_at": experiment.submitted_at,
        "started_at": experiment.started_at,
        "ended_at": experiment.ended_at,
        "owner": experiment.owner or None,
        "project": experiment.project or None,
        "rule": experiment.rule or None,
    }


def details(spool: Spool, journal: Reader, experiment: Experiment) -> dict[str, Any]:
    """All there is to know of one experiment, as JSON-able values."""
    record = record_of(spool, experiment)
    path = log_path(spool, experiment)
    return {
        **summary(experiment),
        "phase": phase_of(spool, experiment) or None,
        "log": str(path) if path else None,
        "saved": (
            [{"tag": s.tag, "address": s.address, "size": s.size} for s in record.saved]
            if record
            else []
        ),
        "last_lines": list(record.last_lines) if record else [],
        "attempts": [
            {
                "attempt": a.attempt,
                "state": a.state.value,
                "reason": a.reason.value,
                "text": a.text,
                "exit_code": a.exit_code,
                "job_id": a.job_id or None,
                "node": a.node or None,
                "log": str(spool.log(a.batch, a.task)) if a.batch else None,
                "started_at": a.started_at,
                "ended_at": a.ended_at,
            }
            for a in journal.attempts(experiment.id)
        ],
        "history": [
            {"at": at, "state": state.value, "text": text}
            for at, state, text in journal.history(experiment.id)
        ],
    }


def why(experiment: Experiment) -> str:
    """The last column of the table: how it ended, or what it waits for."""
    if experiment.retried_as:
        return f"retried as {experiment.retried_as}"
    if experiment.state.final and experiment.state is not State.SUCCEEDED:
        reason = experiment.reason.value if experiment.reason else None
        return ending_words(experiment.state.value, reason, experiment.text)
    return experiment.pending


def exit_code(experiment: Experiment) -> int:
    """What ``submit --wait`` ends with: the payload's own code, else 124 for a time limit (as
    timeout(1)), 130 for a cancel, 1 for any other failure.
    """
    if experiment.state is State.SUCCEEDED:
        return 0
    if experiment.reason in (Reason.TIME_LIMIT, Reason.MAX_DURATION, Reason.LIFETIME_EXPIRED):
        return 124
    if experiment.state is State.CANCELLED:
        return 130
    # What a container's runtime ended with is no exit code of the payload.
    own = experiment.reason is Reason.PAYLOAD_EXIT
    return experiment.exit_code or 1 if own else 1
