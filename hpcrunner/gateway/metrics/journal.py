"""Numbers that the journal holds, read when somebody asks for them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.capacity import Load, load_of
from hpcrunner.gateway.drained import mark_of
from hpcrunner.gateway.experiment import Experiment, State
from hpcrunner.gateway.reader import Reader
from hpcrunner.gateway.spool import Spool
from hpcrunner.notices import Notices

log = logging.getLogger(__name__)

_FRESH = 5.0  # seconds for which an answer serves all who ask


@dataclass(frozen=True, slots=True)
class Numbers:
    """The journal at one moment. ``load`` is what all that is with the scheduler asks for;
    ``oldest_waiting`` is when the oldest ACCEPTED experiment came (epoch seconds).
    """

    states: Mapping[State, int]
    dead: int
    oldest_waiting: float | None
    running: tuple[Experiment, ...]
    load: Load
    size: int
    drained: bool


class JournalNumbers:
    """Reads a spool's journal by a connection of its own. Safe from any thread.

    ``clock`` is a steady clock in seconds.
    """

    def __init__(self, spool: Spool, clock: Callable[[], float]) -> None:
        self._spool = spool
        self._clock = clock
        self._lock = threading.Lock()
        self._at = float("-inf")
        self._last: Numbers | None = None
        self._notices = Notices(log)

    def now(self) -> Numbers | None:
        """The numbers of now or of a moment ago; None where the journal cannot be read."""
        with self._lock:
            if self._clock() - self._at >= _FRESH:
                self._last = self._read()
                self._at = self._clock()
            return self._last

    def _read(self) -> Numbers | None:
        try:
            reader = Reader(self._spool.journal)  # each answer may come from another thread
            try:
                there = reader.in_state(State.SUBMITTING, State.PENDING, State.RUNNING)
                numbers = Numbers(
                    states=reader.states(),
                    dead=reader.count_aside(),
                    oldest_waiting=reader.oldest(State.ACCEPTED),
                    running=tuple(e for e in there if e.state is State.RUNNING),
                    load=load_of(e.spec for e in there if e.spec is not None),
                    size=self._spool.journal.stat().st_size,
                    drained=mark_of(self._spool) is not None,
                )
            finally:
                reader.close()
        except (HpcrunnerError, OSError) as error:
            self._notices.warn("journal", f"metrics: the journal cannot be read now: {error}")
            return None
        self._notices.over("journal", "metrics: the journal can be read again")
        return numbers


class JournalMetrics(Collector):
    """The journal's numbers as ``hpcrunner_*``. ``clock`` is epoch seconds."""

    def __init__(self, numbers: JournalNumbers, clock: Callable[[], float]) -> None:
        self._numbers = numbers
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client's Collector."""
        now = self._numbers.now()
        yield _gauge("journal_readable", "1 where the journal could be read.", now is not None)
        if now is None:
            return
        states = GaugeMetricFamily(
            "hpcrunner_experiments", "Experiments in the journal.", labels=["state"]
        )
        for state, count in now.states.items():
            states.add_metric([state.value], count)
        yield states
        yield _gauge("dead_list", "Experiments on the dead list.", now.dead)
        waits = 0.0 if now.oldest_waiting is None else max(0.0, self._clock() - now.oldest_waiting)
        yield _gauge("oldest_waiting_seconds", "Age of the oldest one not yet submitted.", waits)
        for name, text, value in (
            ("cores", "CPUs", now.load.cores),
            ("memory_bytes", "memory", now.load.memory),
            ("disk_bytes", "disk", now.load.disk),
        ):
            yield _gauge(f"requested_{name}", f"{text} of all that is with the scheduler.", value)
        yield _gauge("journal_bytes", "Size of the journal's file.", now.size)
        yield _gauge("drained", "1 while no new experiments are taken.", now.drained)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"hpcrunner_{name}", text, value=value)
