"""Rounds over all experiments of which reports are due: read on, seal, publish, remember.

Back-pressure is where the output already is: what is not told yet waits in the log files. A
round takes a bounded piece of each, one after the other, so that one experiment that talks a lot
holds up nobody's reports; a broker that is away holds up reports and nothing else.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from hpcrunner.gateway.experiment import Experiment
from hpcrunner.gateway.reader import Reader
from hpcrunner.gateway.reports.position import Position, Stage
from hpcrunner.gateway.reports.positions import Positions
from hpcrunner.gateway.reports.story import Chunk, Facts, files_of, story
from hpcrunner.gateway.retention import TOLD_FOR
from hpcrunner.gateway.spool import Spool
from hpcrunner.keys.folder import NoKey
from hpcrunner.notices import Notices
from hpcrunner.queues.backoff import Backoff
from hpcrunner.queues.contract import Answer, Responder
from hpcrunner.queues.matching import RESPONSE_SUFFIX
from hpcrunner.request.seal import seal

log = logging.getLogger(__name__)

A_TURN = 500  # reports of one experiment before the next one's turn
_LOG_PIECE = 64 * 1024  # bytes
_EVENTS_PIECE = 256 * 1024
_KEEP_EVERY = 2.0  # seconds of a round after which positions are written down
_REFUSED_PAUSE = 30.0


class Keys(Protocol):
    """The experimenters' public keys, by the names of their response queues; see KeyFolder."""

    def refresh(self) -> None:
        """Look for changes, where the last look is old."""
        ...

    def choose(self, queue: str) -> RSAPublicKey:
        """The key for a queue. Raises NoKey."""
        ...


class Responders(Protocol):
    """The ways back to all servers that experiments come from."""

    def find(self, server: str) -> Responder | None:
        """The responder of that name; None where there is none (any more)."""
        ...

    def tend(self) -> None:
        """See Responder.tend, for all."""
        ...

    def close(self) -> None:
        """See Responder.close, for all."""
        ...


@dataclass
class Round:
    """What a round has done. ``more``: something was left that can be told at once."""

    published: int = 0
    more: bool = False
    over: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Route:
    """Where the reports of an experiment go."""

    responder: Responder
    queue: str
    key: RSAPublicKey


class Teller:
    """Tells what is due. Used from one thread, with a journal connection of its own.

    ``host`` is the gateway's; ``clock`` is epoch seconds, ``steady`` a steady clock.
    """

    def __init__(
        self,
        journal: Reader,
        spool: Spool,
        positions: Positions,
        responders: Responders,
        keys: Keys,
        *,
        host: str,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._spool = spool
        self._kept = positions
        self._responders = responders
        self._keys = keys
        self._host = host
        self._clock = clock
        self._steady = steady
        self._positions = positions.load()
        self._changed: set[str] = set()
        self._keep_at = steady() + _KEEP_EVERY
        self._backoffs: dict[str, Backoff] = {}
        self._barred: dict[tuple[str, str], float] = {}
        self._last = ""  # whose turn it was last
        self._notices = Notices(log)

    def round(self, go_on: Callable[[], bool] = lambda: True) -> Round:
        """One turn of each experiment; between two reports ``go_on`` may say no.

        ``over`` of the answer are those of which nothing more is to be told: until the journal
        knows, they are named again. Raises JournalError, OSError or sqlite3.Error.
        """
        done = Round()
        self._keys.refresh()
        due = self._journal.reports_due()
        self._forget(due)
        for experiment in _from_behind(due, self._last):
            if not go_on():
                done.more = True
                break
            self._last = experiment.id
            self._turn(experiment, done, go_on)
            if self._positions[experiment.id].stage is Stage.DONE:
                done.over.append(experiment.id)
            if self._steady() >= self._keep_at:
                self._keep()
        self._keep()
        self._responders.tend()
        return done

    def close(self) -> None:
        """Let go of connections and files. Raises OSError or sqlite3.Error."""
        self._responders.close()
        self._journal.close()
        try:
            self._keep()
        finally:
            self._kept.close()

    def _turn(self, e: Experiment, done: Round, go_on: Callable[[], bool]) -> None:
        position = self._positions.setdefault(e.id, Position())
        if position.stage is Stage.DONE:
            return
        route = self._route(e, position)
        facts = None if route is None else self._facts(e, position)
        if route is None or facts is None:
            self._give_up_old(e)
            return
        told = 0
        for step in story(facts, self._positions[e.id]):
            if step.report is not None:
                if told >= A_TURN or not go_on():
                    done.more = True
                    break
                if not self._publish(e, route, step.report.to_json()):
                    break
                told += 1
            if step.after != self._positions[e.id]:
                self._put(e.id, step.after)
        else:
            done.more = done.more or not (facts.log.whole and facts.events.whole)
        done.published += told
        self._give_up_old(e)

    def _route(self, e: Experiment, position: Position) -> _Route | None:
        """The way to the experimenter, where it is open now; gives those up that have none."""
        queue = e.queue + RESPONSE_SUFFIX
        responder = self._responders.find(e.server)
        if responder is None or not self._open(e.server, queue):
            return None
        try:
            return _Route(responder, queue, self._keys.choose(queue))
        except NoKey as error:
            if position.stage is Stage.NEW:
                self._notices.info(queue, f"no reports of {e.queue}: {error.line()}")
                self._put(e.id, Position(stage=Stage.DONE))
            return None  # it was there: a file that is just being changed comes back

    def _open(self, server: str, queue: str) -> bool:
        backoff = self._backoffs.get(server)
        if backoff is not None and not backoff.due:
            return False
        return self._barred.get((server, queue), float("-inf")) <= self._steady()

    def _publish(self, e: Experiment, route: _Route, text: str) -> bool:
        """Publish one report; False where the next one need not be tried."""
        backoff = self._backoffs.setdefault(e.server, Backoff(self._steady))
        answer = route.responder.publish(route.queue, seal(text.encode(), route.key))
        if answer is Answer.SERVER_AWAY:
            backoff.failed()
            return False
        backoff.succeeded()
        if answer is Answer.QUEUE_REFUSES:
            self._barred[e.server, route.queue] = self._steady() + _REFUSED_PAUSE
            return False
        if answer is Answer.NO_QUEUE:
            self._notices.info(route.queue, f"{e.server}: no queue {route.queue}: no reports to it")
            self._put(e.id, Position(stage=Stage.DONE))
            return False
        if answer is Answer.TOO_LARGE:
            log.warning("%s: a report of %d bytes left out: too large", e.id, len(text))
        else:
            self._notices.over(route.queue)
        return True

    def _facts(self, e: Experiment, position: Position) -> Facts | None:
        """What is known now; None where a file cannot be read just now."""
        behind = position.attempt < e.attempt
        former = self._journal.attempts(e.id) if behind else []
        named = files_of(position, e, former)
        if named is None:
            return Facts(e, former, self._host, self._clock())
        try:
            # The log first: whatever its lines belong to was noted before them.
            output = read_chunk(self._spool.log(*named), position.log, _LOG_PIECE)
            events = read_chunk(self._spool.events(*named), position.events, _EVENTS_PIECE)
        except OSError as error:
            self._notices.warn(e.id, f"{e.id}: its output cannot be read now ({error.strerror})")
            return None
        self._notices.over(e.id)
        return Facts(e, former, self._host, self._clock(), events, output)

    def _give_up_old(self, e: Experiment) -> None:
        """What could not be told within a day of the end is not told any more."""
        if not e.state.final or self._positions[e.id].stage is Stage.DONE:
            return
        now = self._clock()
        ended = e.ended_at if e.ended_at and e.received_at <= e.ended_at <= now else e.received_at
        if now - ended >= TOLD_FOR:
            log.warning("%s: its reports could not be sent and are given up", e.id)
            self._put(e.id, Position(stage=Stage.DONE))

    def _put(self, experiment: str, position: Position) -> None:
        self._positions[experiment] = position
        self._changed.add(experiment)

    def _forget(self, due: list[Experiment]) -> None:
        """The positions of those that the journal knows to be over."""
        gone = self._positions.keys() - {e.id for e in due}
        if gone:
            self._kept.keep({}, gone)
            for experiment in gone:
                del self._positions[experiment]
                self._changed.discard(experiment)
                self._notices.over(experiment)

    def _keep(self) -> None:
        if self._changed:
            self._kept.keep({name: self._positions[name] for name in self._changed})
            self._changed.clear()
        self._keep_at = self._steady() + _KEEP_EVERY


def read_chunk(path: Path, offset: int, most: int) -> Chunk:
    """A piece of a file from ``offset`` on; one that is not there holds nothing. Raises OSError."""
    try:
        # The payload can put a pipe in its place, at which an open would wait for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return Chunk()
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return Chunk()
        data = os.pread(handle, most, offset)
    finally:
        os.close(handle)
    return Chunk(data, whole=len(data) < most)


def _from_behind(due: list[Experiment], last: str) -> Iterator[Experiment]:
    """All of them, starting behind the one whose turn it was last."""
    at = next((i for i, e in enumerate(due, start=1) if e.id == last), 0)
    yield from due[at:]
    yield from due[:at]
