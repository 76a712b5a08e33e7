"""Directory queues: the StudioML client's and the Go runner's ``local_*`` queues.

A sub-folder of the root is a queue, a regular file in it a message, the oldest mtime first.
The Go runner publishes by rename; the Python client writes in place while it holds the queue's
``lock.lock``; people use ``cp``. So a message is taken under that lock, and only once it has
kept still for a moment.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from hpcrunner.notices import Notices
from hpcrunner.queues.claims import LARGEST_MESSAGE, Claim, Claims
from hpcrunner.queues.contract import EQUAL, Delivery, Served, Shares
from hpcrunner.queues.folder import QueueFolder, Stamp
from hpcrunner.queues.matching import QueueFilter
from hpcrunner.queues.softlock import Hold
from hpcrunner.queues.turns import Turns

log = logging.getLogger(__name__)

_MOST_BYTES = 2 * LARGEST_MESSAGE  # of one take, lest a few huge messages fill the memory


class DirectorySource:
    """The queues below one root folder, which may come later. Raises OptionInvalid.

    ``gateway_id`` names this gateway's private folder (see Claims). ``clock`` is epoch seconds
    and ``monotonic`` a steady clock.
    """

    def __init__(
        self,
        root: Path,
        queue_filter: QueueFilter,
        gateway_id: str,
        *,
        shares: Shares = EQUAL,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root.absolute()
        self._filter = queue_filter
        self._claims = Claims(self._root, gateway_id)
        self._shares = shares
        self._turns = Turns(shares.weight)
        self._clock = clock
        self._monotonic = monotonic
        self._notices = Notices(log)
        self._queues: dict[str, QueueFolder] = {}
        self._recovered = False
        self._unread: deque[Claim] = deque()
        self._expected: dict[Claim, Stamp] = {}
        self._held: set[Claim] = set()
        self._listed = 0
        self._unlisted = 0

    @property
    def name(self) -> str:
        """For logs and status."""
        return f"directory {self._root}"

    def take(self, most: int) -> list[Delivery]:
        """See Source.take. What an earlier process left comes first, as redelivered."""
        if most <= 0:
            return []
        try:
            self._recover()
            self._find_queues()
        except OSError as error:
            self._notices.warn("root", f"{self.name}: cannot be read: {_words(error)}; waiting")
            self._unlisted += 1
            return []
        self._listed += 1
        self._notices.over("root", f"{self.name}: is there again")
        self._claim(most - len(self._unread))
        return self._read(most)

    def accept(self, deliveries: Sequence[Delivery]) -> None:
        """See Source.accept."""
        claims = self._release(deliveries)
        try:
            self._claims.settle(claims)
        except OSError as error:
            # They are journalled: after a restart they come once more, marked as redelivered.
            log.warning("%s: accepted messages not removed: %s", self.name, _words(error))

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """See Source.give_back."""
        for claim in self._release(deliveries):
            self._return(claim)

    def served(self) -> Served:
        """See Source.served."""
        return Served("local", tuple(self._queues), self._listed, self._unlisted)

    def close(self) -> None:
        """See Source.close."""
        for claim in (*self._held, *self._unread):
            self._return(claim)
        self._held.clear()
        self._unread.clear()
        self._expected.clear()
        self._recovered = False  # what could not be given back is found again by a later take
        self._claims.tidy()

    def _recover(self) -> None:
        if self._recovered:
            return
        for claim in self._claims.leftovers():
            if self._filter.admits(claim.queue):
                self._unread.append(claim)
            else:
                self._return(claim)
        self._recovered = True

    def _find_queues(self) -> None:
        with os.scandir(self._root) as entries:
            there = {e.name for e in entries if self._filter.admits(e.name) and e.is_dir()}
        # Known ones keep their turn; new ones come behind them.
        names = [*(n for n in self._queues if n in there), *sorted(there - self._queues.keys())]
        self._queues = {name: self._queues.get(name) or self._folder(name) for name in names}
        self._turns.keep(names)

    def _folder(self, name: str) -> QueueFolder:
        return QueueFolder(
            self._root / name, self._claims.folder, clock=self._clock, monotonic=self._monotonic
        )

    def _claim(self, room: int) -> None:
        waiting = {name: queue for name, queue in self._queues.items() if self._scan(name, queue)}
        lengths = {
            name: _at_most(len(queue.waiting), self._shares.room(name))
            for name, queue in waiting.items()
        }
        shares = self._turns.allot(lengths, room)
        before = len(self._unread)
        for name, share in shares.items():
            if share:
                self._claim_from(name, waiting[name], share)
                # Of equals the one served last comes last.
                self._queues[name] = self._queues.pop(name)
        claimed = list(self._unread)[before:]
        self._turns.had(Counter(claim.queue for claim in claimed))

    def _scan(self, name: str, queue: QueueFolder) -> bool:
        try:
            queue.scan()
        except FileNotFoundError:
            return False
        except OSError as error:
            self._notices.warn(name, f"{self.name}: queue {name} skipped: {_words(error)}")
            return False
        return bool(queue.waiting)

    def _claim_from(self, name: str, queue: QueueFolder, share: int) -> None:
        lock = ("lock", name)
        try:
            with queue.lock.tried() as hold:
                if hold is Hold.BUSY:
                    return
                if hold is Hold.STALE:
                    self._notices.warn(
                        lock,
                        f"{self.name}: queue {name}: {queue.lock.path} is stale and passed by; "
                        "remove it, clients wait for it",
                    )
                else:
                    self._notices.over(lock)
                while share > 0 and queue.waiting:
                    share -= self._claim_one(name, *queue.waiting.popleft())
        except FileNotFoundError:
            return  # the queue was deleted this moment
        except OSError as error:
            self._notices.warn(name, f"{self.name}: queue {name} skipped: {_words(error)}")
        else:
            self._notices.over(name, f"{self.name}: queue {name} is usable again")

    def _claim_one(self, name: str, message: str, stamp: Stamp) -> int:
        try:
            claim = self._claims.claim(name, message)
        except FileNotFoundError:
            return 0  # another taker was faster
        except PermissionError as error:
            self._notices.warn(
                (name, message), f"{self.name}: {name}/{message!r} skipped: {_words(error)}"
            )
            return 0
        self._notices.over((name, message))
        self._expected[claim] = stamp
        self._unread.append(claim)
        return 1

    def _read(self, most: int) -> list[Delivery]:
        deliveries: list[Delivery] = []
        size = 0
        for _ in range(len(self._unread)):
            if len(deliveries) >= most or size >= _MOST_BYTES:
                break
            claim = self._unread.popleft()
            expected = self._expected.pop(claim, None)
            try:
                body, stamp = self._claims.read(claim)
            except OSError as error:
                log.error("%s: cannot be read: %s", self._claims.path(claim), _words(error))
                continue
            if expected not in (None, stamp) or len(body) != min(stamp[0], LARGEST_MESSAGE + 1):
                # Somebody still writes; the file took its writer along.
                self._expected[claim] = stamp
                self._unread.append(claim)
                continue
            self._held.add(claim)
            size += len(body)
            deliveries.append(Delivery(claim.queue, body, claim.redelivered, claim))
        return deliveries

    def _release(self, deliveries: Iterable[Delivery]) -> list[Claim]:
        claims = [
            d.handle for d in deliveries if isinstance(d.handle, Claim) and d.handle in self._held
        ]
        self._held.difference_update(claims)
        return claims

    def _return(self, claim: Claim) -> None:
        try:
            if not self._claims.give_back(claim):
                log.info("%s: queue %s is gone, and its message with it", self.name, claim.queue)
        except OSError as error:
            log.error("%s: not given back: %s", self._claims.path(claim), _words(error))


def _at_most(length: int, room: int | None) -> int:
    return length if room is None else min(length, room)


def _words(error: OSError) -> str:
    return error.strerror or type(error).__name__
