"""Which queues of a broker are ours at this moment, and which are known to hold messages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from hpcrunner.notices import Notices
from hpcrunner.queues.backoff import Backoff
from hpcrunner.queues.contract import QueueUnavailable
from hpcrunner.queues.management import Management
from hpcrunner.queues.matching import QueueFilter


@dataclass(frozen=True, slots=True)
class Listing:
    """Names of our queues, and those of them that had messages when they were counted."""

    names: tuple[str, ...] = ()
    busy: frozenset[str] = field(default=frozenset())


class Discovery:
    """Asks the management API every ``period`` seconds; keeps the last answer through outages.

    ``clock`` is monotonic seconds. ``succeeded`` and ``failed`` count its questions.
    """

    def __init__(
        self,
        management: Management,
        queue_filter: QueueFilter,
        notices: Notices,
        *,
        period: float,
        clock: Callable[[], float],
    ) -> None:
        self._management = management
        self._filter = queue_filter
        self._notices = notices
        self._period = period
        self._clock = clock
        self._backoff = Backoff(clock, first=period)
        self._next = float("-inf")
        self.succeeded = 0
        self.failed = 0

    def refresh(self) -> Listing | None:
        """A new listing, or None where none is due or to be had now."""
        if self._clock() < self._next or not self._backoff.due:
            return None
        self._next = self._clock() + self._period
        try:
            found = listing(self._management.bound_queues(), self._management.ready(), self._filter)
        except QueueUnavailable as error:
            self._notices.warn("management", error.line())
            self._backoff.failed()
            self.failed += 1
            return None
        self._backoff.succeeded()
        self.succeeded += 1
        self._notices.over("management", f"{self._management.name}: answers again")
        return found


def listing(bound: Collection[str], ready: Mapping[str, int], queue_filter: QueueFilter) -> Listing:
    """Our queues among the bound ones."""
    names = tuple(sorted(filter(queue_filter.admits, bound)))
    return Listing(names, frozenset(name for name in names if ready.get(name, 0) > 0))
