"""Our own numbers, counted since the gateway began: ``hpcrunner_*``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from hpcrunner import __version__
from hpcrunner.gateway.experiment import Experiment, Outcome, State
from hpcrunner.gateway.happenings import (
    Asked,
    Carrying,
    Copied,
    Ended,
    Happening,
    Received,
    Retried,
    Round,
    Started,
    Submitted,
)
from hpcrunner.gateway.metrics.kinds import Kinds
from hpcrunner.gateway.retries import fault_of
from hpcrunner.request.record import Record

_MINUTE, _HOUR = 60.0, 3600.0
_WAITS = (1, 5, 15, 30, _MINUTE, 5 * _MINUTE, 15 * _MINUTE, _HOUR, 4 * _HOUR, 24 * _HOUR)
_RUNS = (10, _MINUTE, 10 * _MINUTE, _HOUR, 4 * _HOUR, 12 * _HOUR, 24 * _HOUR, 96 * _HOUR)
_CALLS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SET_TIME = 10.0  # epoch seconds; a client's time below means that it set none


class Counts:
    """Listens to what happens, and counts it."""

    def __init__(self, registry: CollectorRegistry, kinds: Kinds) -> None:
        self._kinds = kinds

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"hpcrunner_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"hpcrunner_{name}", text, labels, buckets=buckets, registry=registry)

        build = Gauge(
            "hpcrunner_build_info", "The version that runs.", ["version"], registry=registry
        )
        build.labels(__version__).set(1)
        self._messages = counter(
            "messages", "Messages taken: accepted, set_aside, copy.", "queue_type", "outcome"
        )
        self._lag = histogram(
            "queue_lag_seconds",
            "From the client's time_added to the journal.",
            _WAITS,
            "queue_type",
        )
        self._submissions = counter("submissions", "Batches that the scheduler took.")
        self._submitted = counter("submitted_experiments", "Experiments in these batches.")
        self._to_start = histogram(
            "time_to_start_seconds", "From when an attempt was due until it ran.", _WAITS
        )
        self._runs = histogram("run_seconds", "How long attempts ran.", _RUNS)
        self._endings = counter(
            "endings", "Experiments that ended, set aside included.", "state", "reason"
        )
        self._retries = counter(
            "retries", "Attempts followed by another: infrastructure or payload.", "fault", "reason"
        )
        self._staged = counter(
            "staged_bytes", "Artifacts between stores and nodes: down, up.", "direction"
        )
        self._calls = histogram(
            "scheduler_seconds", "How long the scheduler's answers took.", _CALLS, "call"
        )
        self._unanswered = counter(
            "scheduler_failures", "Calls that the scheduler did not answer.", "call"
        )
        self._rounds = counter("rounds", "Rounds of the gateway.")
        self._round_seconds = counter("round_seconds", "What these rounds took together.")
        self._last_round = Gauge(
            "hpcrunner_last_round_timestamp_seconds",
            "When the last round ended, as seconds since 1970.",
            registry=registry,
        )
        self._carrying = Gauge(
            "hpcrunner_staging_waiting_bytes",
            "What jobs have saved and the gateway has not sent yet, with staging: gateway.",
            registry=registry,
        )
        # Labels that are known beforehand, so that rates begin at 0.
        for direction in ("down", "up"):
            self._staged.labels(direction)
        for call in ("submit", "seek", "look_up", "cancel"):
            self._unanswered.labels(call)

    def __call__(self, happening: Happening) -> None:
        """Count it; this is what is told."""
        match happening:
            case Received(experiment, time_added):
                self._received(experiment, time_added)
            case Copied(queue):
                self._messages.labels(self._kinds.of(queue), "copy").inc()
            case Submitted(experiments):
                self._submissions.inc()
                self._submitted.inc(experiments)
            case Started(experiment, _, at):
                self._started(experiment, at)
            case Retried(following, record):
                fault = fault_of(following.outcome)
                self._retries.labels(fault.value, following.outcome.reason.value).inc()
                self._ran(following.experiment, following.outcome, record)
            case Ended(experiment, outcome, record):
                self._endings.labels(outcome.state.value, outcome.reason.value).inc()
                self._ran(experiment, outcome, record)
            case Asked(call, seconds, answered):
                self._calls.labels(call).observe(seconds)
                if not answered:
                    self._unanswered.labels(call).inc()
            case Carrying(waiting):
                self._carrying.set(waiting)
            case Round(at, seconds):
                self._rounds.inc()
                self._round_seconds.inc(max(0.0, seconds))
                self._last_round.set(at)
            case _:
                pass

    def _received(self, e: Experiment, time_added: float | None) -> None:
        kind = self._kinds.of(e.queue)
        if e.state is State.REJECTED:
            self._messages.labels(kind, "set_aside").inc()
            if e.reason is not None:
                self._endings.labels(e.state.value, e.reason.value).inc()
            return
        self._messages.labels(kind, "accepted").inc()
        if time_added is not None and time_added > _SET_TIME:
            self._lag.labels(kind).observe(max(0.0, e.received_at - time_added))

    def _started(self, e: Experiment, at: float | None) -> None:
        if at is not None:
            self._to_start.observe(max(0.0, at - max(e.received_at, e.not_before)))

    def _ran(self, e: Experiment, outcome: Outcome, record: Record | None) -> None:
        began = outcome.started_at if outcome.started_at is not None else e.started_at
        if e.state is State.PENDING:  # over before it was ever seen to run
            self._started(e, began)
        if began is not None and outcome.ended_at is not None:
            self._runs.observe(max(0.0, outcome.ended_at - began))
        if record is not None:
            self._staged.labels("down").inc(max(0, record.fetched_bytes))
            self._staged.labels("up").inc(max(0, record.saved_bytes))
