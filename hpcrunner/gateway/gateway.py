"""The service's loop: intake, cancel, dispatch, track, sleep. One thread, bounded steps."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from hpcrunner.gateway.dispatch import Dispatch
from hpcrunner.gateway.intake import Intake
from hpcrunner.gateway.journal import Journal, JournalError
from hpcrunner.gateway.spool import SpoolError
from hpcrunner.gateway.track import Track

log = logging.getLogger(__name__)

_GROUP = 1000  # messages written down in one transaction
_INTAKE_FLOOR, _INTAKE_CEILING = 0.2, 2.0
_DISK_PAUSE = 10.0


@dataclass(frozen=True, slots=True)
class Limits:
    """When the gateway ends of itself: after so many experiments, or so long (s) with nothing.

    ``tasks`` 0 and ``idle`` 0 mean never.
    """

    tasks: int = 0
    idle: float = 0.0


NO_LIMITS = Limits()


class Gateway:
    """The parts put together; ``step`` does one round, ``run`` goes on until told to stop."""

    def __init__(
        self,
        journal: Journal,
        intake: Intake,
        dispatch: Dispatch,
        track: Track,
        *,
        max_jobs: int,
        clock: Callable[[], float],
        limits: Limits = NO_LIMITS,
    ) -> None:
        self._journal = journal
        self._intake = intake
        self._dispatch = dispatch
        self._track = track
        self._max_jobs = max_jobs
        self._clock = clock
        self._limits = limits
        self._stop = threading.Event()
        self._taken = 0
        self._busy_at = clock()
        self._track_at = 0.0
        self._pause = _INTAKE_FLOOR

    def stop(self) -> None:
        """End the loop after the round in hand; running jobs go on. Safe in a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Rounds until stopped or a limit is reached.

        A disk that takes no more is waited for, not died of: what is unsettled stays with its
        queue, and what is journalled is not lost.
        """
        self._dispatch.sweep()
        while not self._stop.is_set():
            try:
                self.step()
                pause = self.wait()
            except (JournalError, SpoolError) as error:
                log.error("%s; trying again in %.0f s", error.line(), _DISK_PAUSE)
                pause = _DISK_PAUSE
            if self.finished():
                return
            self._stop.wait(pause)

    def step(self) -> None:
        """One round: bounded in time, each part in its order."""
        live = self._journal.count_live()
        room = min(_GROUP, self._max_jobs - live)
        if self._limits.tasks:
            room = min(room, self._limits.tasks - self._taken)
        taken = self._intake.drain(max(0, room))
        self._taken += taken
        self._track.cancel_wished()
        submitted = self._dispatch.step()
        if submitted:
            self._track.period.soon()
            self._track_at = min(self._track_at, self._clock() + self._track.period.seconds)
        if live and self._clock() >= self._track_at:
            self._track.step()
            self._track_at = self._clock() + self._track.period.seconds
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
        if self._limits.tasks and self._taken >= self._limits.tasks:
            return True
        return bool(self._limits.idle) and self._clock() - self._busy_at >= self._limits.idle
