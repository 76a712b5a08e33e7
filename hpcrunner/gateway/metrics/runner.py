"""The numbers of StudioML's runner under its own names: ``runner_*``.

Counters bear no ``_total`` there, which makes them untyped for Prometheus' own library; rates and
sums do not mind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hpcrunner.gateway.capacity import Capacity
from hpcrunner.gateway.experiment import Experiment
from hpcrunner.gateway.happenings import Ended, Happening, Looked, Retried
from hpcrunner.gateway.metrics.fading import Fading
from hpcrunner.gateway.metrics.journal import JournalNumbers
from hpcrunner.gateway.metrics.kinds import Kinds
from hpcrunner.queues.contract import Served
from hpcrunner.request.record import Record

_PROJECT = ("queue_type", "queue_name", "project", "experiment")
_QUEUE = ("queue_type", "queue_name")


class RunnerMetrics(Collector):
    """Listens to what happens, and shows it as the runner would.

    ``host`` is the first label of all; ``clock`` is a steady clock in seconds.
    """

    def __init__(
        self,
        numbers: JournalNumbers,
        kinds: Kinds,
        capacity: Capacity,
        host: str,
        clock: Callable[[], float],
    ) -> None:
        self._numbers = numbers
        self._kinds = kinds
        self._capacity = capacity
        self._host = host
        self._checked = Fading(clock)
        self._ignored = Fading(clock)
        self._completed = Fading(clock)
        self._lock = threading.Lock()
        self._refreshed: dict[str, int] = {}
        self._unrefreshed: dict[str, int] = {}
        self._hits = 0
        self._misses = 0

    def __call__(self, happening: Happening) -> None:
        """Count it; this is what is told."""
        match happening:
            case Looked(source, served, passed_over):
                self._kinds.learn(served)
                self._looked(source, served, passed_over=passed_over)
            case Retried(following, record):
                self._completed.add(self._labels(following.experiment))
                self._cached(record)
            case Ended(experiment, _, record) if experiment.batch:
                self._completed.add(self._labels(experiment))
                self._cached(record)
            case _:
                pass

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client's Collector."""
        with self._lock:
            refreshed, unrefreshed = dict(self._refreshed), dict(self._unrefreshed)
            hits, misses = self._hits, self._misses
        yield self._counts(
            "queue_refresh_success",
            "Times that a server's queues were listed.",
            ("project",),
            (((project,), count) for project, count in refreshed.items()),
        )
        yield self._counts(
            "queue_refresh_fail",
            "Times that a server's queues could not be listed.",
            ("project",),
            (((project,), count) for project, count in unrefreshed.items()),
        )
        for name, text, counts in (
            ("queue_checked", "Rounds in which a queue was looked at.", self._checked),
            ("queue_ignored", "Rounds in which a queue was passed over.", self._ignored),
        ):
            yield self._counts(name, text, _QUEUE, counts.items())
        now = self._numbers.now()
        running = [] if now is None else [(self._labels(e), 1) for e in now.running]
        yield self._counts("project_running", "Experiments that run.", _PROJECT, running, "gauge")
        yield self._counts(
            "project_completed",
            "Attempts that ended within the last hour, well or not.",
            _PROJECT,
            self._completed.items(),
        )
        yield self._counts("cache_hits", "Artifacts found in a cache.", (), [((), hits)])
        yield self._counts("cache_misses", "Artifacts not found there.", (), [((), misses)])
        if now is None:
            return
        for name, limit, used in (
            ("cpu_free_slots", self._capacity.cores, now.load.cores),
            ("cpu_ram_free_bytes", self._capacity.memory, now.load.memory),
            ("disk_free_bytes", self._capacity.disk, now.load.disk),
        ):
            if limit:
                free = GaugeMetricFamily(
                    f"runner_resource_{name}", "Left of this gateway's limit.", labels=["host"]
                )
                free.add_metric([self._host], max(0, limit - used))
                yield free

    def _looked(self, source: str, served: Served, *, passed_over: bool) -> None:
        with self._lock:
            self._refreshed[source] = served.listed
            self._unrefreshed[source] = served.unlisted
        # A server that was never asked has no queues that one could name.
        for queue in served.queues or ("",):
            self._checked.add((served.kind, queue), int(not passed_over and bool(queue)))
            self._ignored.add((served.kind, queue), int(passed_over))

    def _cached(self, record: Record | None) -> None:
        if record is not None:
            with self._lock:
                self._hits += max(0, record.cache_hits)
                self._misses += max(0, record.cache_misses)

    def _counts(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...],
        counts: Iterator[tuple[tuple[str, ...], int]] | list[tuple[tuple[str, ...], int]],
        kind: str = "unknown",
    ) -> Metric:
        # CounterMetricFamily would add _total to the names.
        metric = Metric(f"runner_{name}", text, kind)
        for values, count in counts:
            shown = dict(zip(labels, values, strict=True), host=self._host)
            metric.add_sample(f"runner_{name}", shown, count)
        return metric

    def _labels(self, e: Experiment) -> tuple[str, ...]:
        return (self._kinds.of(e.queue), e.queue, e.project, e.key)
