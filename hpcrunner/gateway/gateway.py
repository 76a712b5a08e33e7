"""The service's loop: intake, cancel, dispatch, track, sleep. One thread, bounded steps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from hpcrunner.crashpoint import crashpoint
from hpcrunner.gateway.database import JournalError
from hpcrunner.gateway.dispatch import Dispatch
from hpcrunner.gateway.drained import mark_of
from hpcrunner.gateway.fairness import SiteShares
from hpcrunner.gateway.happenings import Round, Tell, nobody
from hpcrunner.gateway.intake import Intake
from hpcrunner.gateway.journal import Journal
from hpcrunner.gateway.lock import SpoolLock
from hpcrunner.gateway.orders import Orders
from hpcrunner.gateway.pace import Setbacks
from hpcrunner.gateway.spool import Spool, SpoolError
from hpcrunner.gateway.track import Track
from hpcrunner.gateway.wishes import Wishes
from hpcrunner.notices import Notices

log = logging.getLogger(__name__)

_GROUP = 1000  # messages written down in one transaction
_INTAKE_FLOOR, _INTAKE_CEILING = 0.2, 2.0
_FINISHING = 30.0  # seconds that a drain gives to batches whose fate is unknown
_FINISHING_PAUSE = 2.0


@dataclass(frozen=True, slots=True)
class Limits:
    """When the gateway ends of itself: after so many experiments, or so long (s) with nothing.

    ``tasks`` 0 and ``idle`` 0 mean never.
    """

    tasks: int = 0
    idle: float = 0.0


NO_LIMITS = Limits()


class Ended(Enum):
    """Why ``run`` came back."""

    LIMIT = "a limit was reached"
    DRAINED = "told to end"
    RELOAD = "told to read the site's file again"


@dataclass(frozen=True, slots=True)
class Hold:
    """A spool that is ours: its lock, and its journal, which nobody else may write."""

    spool: Spool
    lock: SpoolLock
    journal: Journal


class Teller(Protocol):
    """What tells others of endings, on threads of its own, and remembers what is still to tell."""

    def step(self) -> None:
        """Take up what was told, and hand over what has ended since. Raises JournalError."""
        ...

    def finish(self, pause: Callable[[float], None], go_on: Callable[[], bool]) -> None:
        """Go on until all that can be told now is, or ``go_on`` says no. Raises JournalError."""
        ...


class Gateway:
    """The parts put together; ``step`` does one round, ``run`` goes on until told to stop.

    ``taken`` is how many messages earlier parts over the same hold have taken. ``collect`` is
    called each round, to remove what has aged out, and comes back soon; after it each of
    ``tellers`` has its step. ``shares`` is told what is held back, before each intake.
    """

    def __init__(
        self,
        hold: Hold,
        intake: Intake,
        dispatch: Dispatch,
        track: Track,
        wishes: Wishes,
        *,
        max_jobs: int,
        clock: Callable[[], float],
        limits: Limits = NO_LIMITS,
        taken: int = 0,
        collect: Callable[[], None] = lambda: None,
        tell: Tell = nobody,
        tellers: Sequence[Teller] = (),
        shares: SiteShares | None = None,
    ) -> None:
        self._hold = hold
        self._journal = hold.journal
        self._intake = intake
        self._dispatch = dispatch
        self._track = track
        self._wishes = wishes
        self._max_jobs = max_jobs
        self._clock = clock
        self._limits = limits
        self.taken = taken
        self._collect = collect
        self._tell = tell
        self._tellers = tellers
        self._shares = shares
        self._busy_at = clock()
        self._track_at = 0.0
        self._pause = _INTAKE_FLOOR
        self._recovered = False
        self._drained = False
        self._setbacks = Setbacks()
        self._notices = Notices(log)

    def run(self, orders: Orders) -> Ended:
        """Rounds until ordered to end or to reload, or a limit is reached.

        A disk that takes no more is waited for, not died of: what is unsettled stays with its
        queue, and what is journalled is not lost. Raises JournalError for what no waiting mends,
        and SpoolLost or Superseded where another gateway has the spool.
        """
        while not orders.draining:
            if orders.take_reload():
                return Ended.RELOAD
            try:
                self.step(orders.go_on)
                if self.finished():
                    self._tell_the_rest(orders)
                    return Ended.LIMIT
                pause = self.wait()
            except (JournalError, SpoolError, OSError) as error:
                pause = self._set_back(error)
            else:
                self._setbacks.over()
                self._notices.over("disk", "the spool can be used again")
            orders.pause(pause)
        self._finish(orders)
        return Ended.DRAINED

    def step(self, go_on: Callable[[], bool] = lambda: True) -> None:
        """One round: bounded in time, each part in its order, and cut short between two parts
        where ``go_on`` says no.
        """
        began = self._clock()
        self._step(go_on)
        self._tell(Round(self._clock(), self._clock() - began))

    def _step(self, go_on: Callable[[], bool]) -> None:
        self._hold.lock.check()
        if not self._recovered:
            self._dispatch.recover()
            self._recovered = True
        live = self._journal.count_live()
        taken = self._take(live)
        if not go_on():
            return
        if self._wishes.step():
            self._track.period.soon()
        if not go_on():
            return
        submitted = self._dispatch.step(go_on)
        if submitted:
            self._track.period.soon()
            self._track_at = min(self._track_at, self._clock() + self._track.period.seconds)
        self._track.deliver()
        if live and self._clock() >= self._track_at and go_on():
            self._track.step()
            self._track_at = self._clock() + self._track.period.seconds
        if go_on():
            self._collect()
        for teller in self._tellers:
            teller.step()
        if taken or submitted or live:
            self._busy_at = self._clock()
        self._pause = _INTAKE_FLOOR if taken else min(_INTAKE_CEILING, self._pause * 1.5)

    def wait(self) -> float:
        """Seconds until something may be due."""
        pauses = [self._pause, max(0.0, self._track_at - self._clock())]
        dispatch = self._dispatch.wait()
        if dispatch is not None:
            pauses.append(dispatch)
        if self._journal.count_live() == 0:
            pauses.pop(1)
        return max(0.05, min(pauses))

    def finished(self) -> bool:
        """True once a limit is reached and nothing is left to do."""
        if self._journal.count_live():
            return False
        if self._limits.tasks and self.taken >= self._limits.tasks:
            return True
        return bool(self._limits.idle) and self._clock() - self._busy_at >= self._limits.idle

    def _tell_the_rest(self, orders: Orders) -> None:
        """Before an end of its own accord: reports and records of what has just ended."""
        until = self._clock() + _FINISHING
        for teller in self._tellers:
            teller.finish(orders.pause, lambda: orders.go_on() and self._clock() < until)

    def _take(self, live: int) -> int:
        mark = mark_of(self._hold.spool)
        if mark is not None:
            if not self._drained:
                log.warning("%s; no new experiments are taken, the others go on", mark.words())
                self._intake.rest()
            self._drained = True
            self._intake.pass_over()
            return 0
        if self._drained:
            log.info("resumed: new experiments are taken again")
            self._drained = False
        # What the site's rules hold back takes no room from others.
        held = self._dispatch.held
        if self._shares is not None:
            self._shares.hold(held)
        room = min(_GROUP, self._max_jobs - live + sum(held.values()))
        if self._limits.tasks:
            room = min(room, self._limits.tasks - self.taken)
        taken = self._intake.drain(max(0, room))
        self.taken += taken
        return taken

    def _set_back(self, error: JournalError | SpoolError | OSError) -> float:
        """The pause after what may pass, said once; raises what will not."""
        if isinstance(error, JournalError) and not error.passing:
            raise error
        text = f"{type(error).__name__}: {error}" if isinstance(error, OSError) else error.line()
        self._notices.warn("disk", f"{text}; waiting for it, messages stay in their queues")
        # What was taken and not written down would else stay in hand until the next start.
        self._intake.rest()
        self._recovered = False  # a batch's folder may have been written without its row
        return self._setbacks.pause()

    def _finish(self, orders: Orders) -> None:
        """See that no batch is left of which nobody knows whether it was submitted, if it can be
        seen soon. The next gateway on this spool looks otherwise.
        """
        until = self._clock() + _FINISHING
        try:
            self._hold.lock.check()
            while self._dispatch.uncertain() and not orders.at_once:
                self._dispatch.settle()
                if not self._dispatch.uncertain() or self._clock() >= until:
                    break
                orders.pause(_FINISHING_PAUSE)
            crashpoint("gateway.drained")
            left = self._journal.count_live()
        except (JournalError, SpoolError, OSError) as error:
            if isinstance(error, JournalError) and not error.passing:
                raise
            log.warning("ends as it is: %s", error)
            return
        log.info("drained: %d experiment(s) go on or wait for the next gateway here", left)
