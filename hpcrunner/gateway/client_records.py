"""The last word to the client's database, where the job side has not said it.

That is so for what never started (refused by the site, cancelled while it waited, expired, lost),
for a job that died without telling or could not reach the store, and for an ending that only the
gateway knows: a cancellation, or a failure that was to be followed by another attempt and was
not. The record becomes ``finished``, with the reason in its member ``hpcrunner``.

The journal remembers who is untold, whatever happens. The stores are asked by a few threads that
nobody waits for, so that one that hangs stalls no round; one that cannot be reached is left alone
for a while, and after a day it is given up.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.experiment import Experiment
from hpcrunner.gateway.journal import Journal
from hpcrunner.gateway.opening import Opener
from hpcrunner.gateway.spool import Spool
from hpcrunner.gateway.unprepared import ended_unprepared, write_results
from hpcrunner.notices import Notices
from hpcrunner.request.location import Location
from hpcrunner.request.model import Request
from hpcrunner.request.parse import parse_message
from hpcrunner.request.reasons import Reason
from hpcrunner.request.resolve import resolve_record
from hpcrunner.request.results import RESULTS
from hpcrunner.sites.node_setup import carried_rules, record_rules
from hpcrunner.sites.site import Site
from hpcrunner.storage import database
from hpcrunner.storage.contract import StoreUnreachable
from hpcrunner.storage.database import Said, change_record

log = logging.getLogger(__name__)

THREADS = 4
MOST_AT_ONCE = 64
GIVE_UP_AFTER = 86400.0
FIRST_PAUSE, LONGEST_PAUSE = 15.0, 900.0
_TAIL = 64 * 1024  # of the event file: what was told to the client stands at its end
_SAME = 1.0  # seconds by which a later submission of the same key must differ


@dataclass(frozen=True, slots=True)
class _Task:
    """An ending to tell. ``request`` is None where ``body`` is the request in clear text."""

    experiment: Experiment
    body: bytes = field(repr=False)
    request: Request | None


@dataclass(frozen=True, slots=True)
class _Answer:
    """``trouble`` is empty where it was told, or nothing was to be told."""

    id: str
    trouble: str = ""
    passing: bool = False
    server: str = ""


class ClientRecords:
    """Steps of the gateway's round; see the module. ``close`` lets the threads go."""

    def __init__(
        self,
        journal: Journal,
        spool: Spool,
        site: Site,
        opener: Opener,
        *,
        clock: Callable[[], float],
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._spool = spool
        self._rules = record_rules(site)
        self._carried = carried_rules(site)
        self._opener = opener
        self._clock = clock
        self._steady = steady
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        self._asked: set[str] = set()
        self._later: dict[str, float] = {}  # experiment: not before (steady)
        self._away: dict[str, tuple[float, float]] = {}  # server: not before, and the pause
        self._threads = 0
        self._notices = Notices(log)

    def step(self) -> None:
        """Take up what the threads have done, and give them more. Raises JournalError."""
        told = [id_ for id_ in iter(self._next_answer, None) if id_]
        if told:
            self._journal.client_told(told)
            self._asked.difference_update(told)
        now = self._steady()
        self._later = {id_: at for id_, at in self._later.items() if at > now}
        room = MOST_AT_ONCE - len(self._asked)
        nothing_to_tell: list[str] = []
        for id_ in self._journal.untold() if room else ():
            if room <= 0:
                break
            if id_ in self._asked or id_ in self._later:
                continue
            room -= 1
            task = self._task(id_)
            if task is None:
                nothing_to_tell.append(id_)
            else:
                self._asked.add(id_)
                self._give(task)
        if nothing_to_tell:
            self._journal.client_told(nothing_to_tell)

    def finish(self, pause: Callable[[float], object], go_on: Callable[[], bool]) -> None:
        """Steps until all that can be told now has been, or ``go_on`` says no."""
        self.step()
        while self._asked and go_on():
            pause(0.1)
            self.step()

    def close(self) -> None:
        """Let the threads end, each after what it has in hand; nobody waits for them."""
        for _ in range(self._threads):
            self._tasks.put(None)
        self._threads = 0

    def _next_answer(self) -> str | None:
        """The next id that is settled, "" for one that is not, None without any answer."""
        with suppress(queue.Empty):
            answer = self._answers.get_nowait()
            if not answer.trouble:
                if answer.server:
                    self._away.pop(answer.server, None)
                    self._notices.over(answer.server, f"{answer.server} can be reached again")
                return answer.id
            return answer.id if self._given_up(answer) else ""
        return None

    def _given_up(self, answer: _Answer) -> bool:
        if answer.passing:
            not_before, pause = self._away.get(answer.server, (0.0, FIRST_PAUSE))
            if not_before <= self._steady():
                not_before = self._steady() + pause
                self._away[answer.server] = (not_before, min(LONGEST_PAUSE, 2 * pause))
                self._notices.warn(
                    answer.server, f"client's record: {answer.trouble}; tried again for a day"
                )
            experiment = self._journal.of_id(answer.id)
            ended = experiment.ended_at if experiment and experiment.ended_at else self._clock()
            if self._clock() - ended < GIVE_UP_AFTER:
                self._later[answer.id] = not_before
                self._asked.discard(answer.id)
                return False
        log.warning("%s: the client's record was not told: %s", answer.id, answer.trouble)
        self._journal.remark([answer.id], f"the client's record was not told: {answer.trouble}")
        return True

    def _task(self, id_: str) -> _Task | None:
        """What is to be told of an experiment; None where nothing is, or nobody may know to whom.

        What was refused before it was accepted is told only to those whose message may be run
        here: else anybody could have the gateway write somewhere.
        """
        experiment = self._journal.of_id(id_)
        body = self._journal.message(id_) if experiment is not None else b""
        if experiment is None or not body:
            return None  # aged out
        if experiment.spec is not None:
            return _Task(experiment, body, None)
        try:
            opened = self._opener.open(experiment.queue, experiment.server, body)
        except HpcrunnerError:
            return None
        return _Task(experiment, opened.clear, opened.request)

    def _give(self, task: _Task) -> None:
        self._tasks.put(task)
        if self._threads < min(THREADS, len(self._asked)):
            self._threads += 1
            threading.Thread(target=self._work, name="client-records", daemon=True).start()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                answer = self._told(task)
            except HpcrunnerError as error:
                answer = _Answer(task.experiment.id, error.line())
            except Exception as error:  # whatever a store's client throws
                answer = _Answer(task.experiment.id, f"{type(error).__name__}: {error}")
            self._answers.put(answer)

    def _told(self, task: _Task) -> _Answer:
        e = task.experiment
        request = task.request or parse_message(task.body)
        if not isinstance(request, Request):
            return _Answer(e.id)
        try:
            write_results(e, request, self._carried)
        except StoreUnreachable as error:
            return _Answer(e.id, error.line(), passing=True, server=f"the store of {RESULTS}")
        except (HpcrunnerError, OSError) as error:
            log.warning("%s: %s was not written: %s", e.id, RESULTS, error)
        location = resolve_record(request, self._rules)
        if location is None:
            return _Answer(e.id)
        if e.batch and job_side_told(self._events_of(e), e.reason, location.scheme):
            return _Answer(e.id)
        server = _server(location)
        if self._away.get(server, (0.0, 0.0))[0] > self._steady():
            return _Answer(e.id, "its store cannot be reached", passing=True, server=server)
        try:
            # As the job side would have made it, where its client has none any more.
            document = request.document if ended_unprepared(e) else None
            change_record(location, document, last_word(e, request.time_added, self._clock()))
        except StoreUnreachable as error:
            return _Answer(e.id, error.line(), passing=True, server=server)
        return _Answer(e.id, server=server)

    def _events_of(self, e: Experiment) -> bytes:
        try:
            with self._spool.events(e.batch, e.task).open("rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - _TAIL))
                return file.read()
        except OSError:
            return b""


def job_side_told(events: bytes, reason: Reason | None, scheme: str) -> bool:
    """Whether the job side has told the client this very ending, by the end of its event file.

    What it told to a file for the gateway to carry (another ``scheme`` than the client's record
    has) the client has not heard.
    """
    for line in reversed(events.splitlines()):
        if b'"client_told"' not in line:
            continue
        with suppress(ValueError, TypeError, AttributeError):
            event = json.loads(line)
            if event.get("event") == "client_told":
                same = reason is not None and event.get("reason") == reason.value
                heard = event.get("at", scheme) == scheme
                return same and heard and event.get("outlook") == "final"
    return False


def last_word(e: Experiment, time_added: float | None, now: float) -> database.Change:
    """The change that tells an experiment's ending, unless the record tells of a later one.

    Clients send an experiment again under the same key, with another ``time_added``.
    """

    def change(record: dict[str, Any]) -> None:
        added = record.get("time_added")
        if (
            time_added is not None
            and isinstance(added, (int, float))
            and added > time_added + _SAME
        ):
            return
        said = Said(e.id, e.attempt, e.reason or Reason.LOST, e.text)
        if record.get("hpcrunner") == said.member() and record.get("time_finished"):
            return  # told already, before a crash
        database.finished(min(e.ended_at or now, now), said)(record)

    return change


def _server(location: Location) -> str:
    """What stands and falls together, for people too."""
    if location.scheme == "file":
        return "the file system of the client's database"
    scheme, _, rest = str(location).partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"
