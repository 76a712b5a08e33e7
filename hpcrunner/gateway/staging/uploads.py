"""The gateway's side of what jobs save: seen by one listing, sent by a few threads.

While a job runs, what it saved is sent soon after. When it has ended, all of it has to be in its
stores before anybody is told: ``settle`` says when. A store that is away is tried again for a day.
Which version of a file its store has stands in marks beside the files (marks.py), so that a
gateway that was killed, or away for days, goes on where it was.
"""

from __future__ import annotations

import logging
import os
import queue
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from hpcrunner.errors import HpcrunnerError, one_line
from hpcrunner.gateway.experiment import SUBMITTED, Experiment, State
from hpcrunner.gateway.happenings import Carrying, Tell, nobody
from hpcrunner.gateway.preparation import Attempt
from hpcrunner.gateway.reader import Reader
from hpcrunner.gateway.staging import mirrors, wheels
from hpcrunner.gateway.staging.layout import RESULTS, Layout, carried, parsed
from hpcrunner.gateway.staging.marks import read_mark, version_of
from hpcrunner.gateway.staging.objects import Objects
from hpcrunner.gateway.staging.sending import Answer, Job, Sender, Trouble, server_of
from hpcrunner.gateway.staging.workers import Workers
from hpcrunner.notices import Notices
from hpcrunner.request.plan import PlannedExperiment
from hpcrunner.request.reasons import Reason
from hpcrunner.request.record import Record

log = logging.getLogger(__name__)

THREADS = 5  # of which one store may hold all but one
LOOK_EVERY = 2.0  # seconds between two listings, or longer where one takes long
COMPARE_EVERY = 15.0  # seconds between two looks at a client's record
CLEAN_EVERY, CLEAN_SOON = 20.0, 2.0
SWEEP_EVERY = 3600.0
UNKNOWN_KEPT = 7 * 86400.0
NEW_PLANS = 50  # requests that are read in one round
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 300.0
SAVE_PAUSE = 30.0  # after a save that failed while its job goes on
GIVE_UP_AFTER = 86400.0
SHOWN_WITHIN = 180.0  # seconds for a shared file system to show what was written elsewhere
Plan = Callable[[Experiment], PlannedExperiment | None]


@dataclass
class _Ending:
    """An attempt that has ended, until all of it is out. ``settled``: what could not be sent."""

    experiment: Experiment
    record: Record | None
    since: float
    not_before: float = 0.0
    pause: float = FIRST_PAUSE
    troubles: tuple[Trouble, ...] = ()
    settled: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Listing:
    """What a look at the folders found. ``changed`` are names in ``out``; ``bytes`` theirs."""

    attempts: frozenset[Attempt]
    changed: tuple[str, ...]
    bytes: int


class Uploads:
    """Steps of the gateway's round, and what Track asks about endings. See the module.

    ``plan`` gives the plan of an experiment's present attempt with the stores' own addresses.
    """

    def __init__(
        self,
        layout: Layout,
        objects: Objects,
        journal: Reader,
        plan: Plan,
        *,
        tell: Tell = nobody,
        threads: int = THREADS,
        steady: Callable[[], float] = time.monotonic,
        give_up_after: float = GIVE_UP_AFTER,
        look_every: float = LOOK_EVERY,
        compare_every: float = COMPARE_EVERY,
        clean_every: float = CLEAN_EVERY,
    ) -> None:
        self._tell = tell
        self._layout = layout
        self._objects = objects
        self._journal = journal
        self._plan = plan
        self._steady = steady
        self._give_up_after = give_up_after
        self._look_every = look_every
        self._compare_every = compare_every
        self._clean_every = clean_every
        self._sender = Sender(layout, self._is_away)
        self._workers = Workers("staging-send", threads)
        self._mirrors = Workers("staging-record", threads)
        self._keeper = Workers("staging-look", 1)
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._listings: queue.SimpleQueue[_Listing] = queue.SimpleQueue()
        self._plans: dict[Attempt, PlannedExperiment | None] = {}
        self._endings: dict[Attempt, _Ending] = {}
        self._busy: set[Attempt] = set()
        self._changed: dict[Attempt, set[str]] = {}
        self._stored: dict[str, int] = {}  # by name in out: the inode as it was listed
        self._away: dict[str, tuple[float, float]] = {}  # server: not before, and the pause
        self._present: frozenset[Attempt] = frozenset()
        self._looking = False
        self._look_at = self._clean_at = 0.0
        self._sweep_at = steady() + 60.0
        self._compared: dict[Attempt, float] = {}
        self._later: dict[Attempt, float] = {}  # a save failed: not before
        self._comparing: set[Attempt] = set()
        self._notices = Notices(log)

    def settle(
        self, experiment: Experiment, record: Record | None, *, hurry: bool = False
    ) -> tuple[str, ...] | None:
        """Whether what an attempt left is out: None for not yet, else what could not be saved.

        ``hurry``: somebody wants the experiment ended, and a store that is away is not waited for.
        """
        attempt = (experiment.id, experiment.attempt)
        ending = self._endings.get(attempt)
        if ending is None:
            if not self._layout.marker(attempt).exists():
                return ()  # nothing of it was carried
            self._endings[attempt] = _Ending(experiment, record, self._steady())
            self._send_endings()
            return None
        if ending.settled is None and ending.troubles and hurry:
            self._give_up(ending)
        return ending.settled

    def step(self) -> None:
        """Take up what the threads have done, and give them more. Raises JournalError."""
        self._take_answers()
        while not self._listings.empty():
            self._take(self._listings.get())
        self._send_endings()
        now = self._steady()
        if not self._looking and now >= self._look_at:
            self._looking = True
            self._keeper.give(self._list)
        if now >= self._clean_at:
            self._clean_at = now + self._clean_every
            self._clean()
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_EVERY
            self._keeper.give(self._sweep)

    def finish(self, pause: Callable[[float], object], go_on: Callable[[], bool]) -> None:
        """Nothing of an experiment that ended is left here: its end waited for that."""
        self._clean()

    def close(self) -> None:
        """Let the threads end, each after what it has in hand; nobody waits for them."""
        for workers in (self._workers, self._mirrors, self._keeper):
            workers.close()

    # What is there.

    def _list(self) -> None:
        """One listing of a folder for all experiments; a file is looked at only where it is new."""
        began = self._steady()
        attempts: set[Attempt] = set()
        changed: list[str] = []
        size = 0
        try:
            for name in os.listdir(self._layout.attempts):
                if (found := parsed(name)) is not None:
                    attempts.add(found[0])
            for entry in os.scandir(self._layout.out):
                found = parsed(entry.name)
                if found is None or self._stored.get(entry.name) == entry.inode():
                    continue
                attempts.add(found[0])
                with suppress(OSError):
                    version = version_of(entry.stat(follow_symlinks=False))
                    mark = read_mark(self._layout.stored / entry.name)
                    if mark is not None and mark.version == version:
                        self._stored[entry.name] = entry.inode()
                    else:
                        changed.append(entry.name)
                        size += version.size
        except OSError as error:
            log.warning("staging: %s cannot be listed now (%s)", self._layout.root, error)
        took = self._steady() - began
        self._look_at = self._steady() + max(self._look_every, 10 * took)
        self._listings.put(_Listing(frozenset(attempts), tuple(changed), size))

    def _take(self, listing: _Listing) -> None:
        self._looking = False
        self._present = listing.attempts
        self._tell(Carrying(listing.bytes))
        self._changed = {}
        for name in listing.changed:
            found = parsed(name)
            if found is not None and found[1] != RESULTS:  # the last word waits for the end
                self._changed.setdefault(found[0], set()).add(found[1])
        if self._present:
            self._serve_running(self._steady())

    # What goes.

    def _serve_running(self, now: float) -> None:
        """Saves of jobs that run, and the records of their clients."""
        live = [
            e
            for e in self._journal.in_state(*SUBMITTED)
            if (e.id, e.attempt) in self._present and (e.id, e.attempt) not in self._endings
        ]
        unread = [a for e in live if (a := (e.id, e.attempt)) not in self._plans]
        later = set(unread[NEW_PLANS:])
        for e in live:
            attempt = (e.id, e.attempt)
            if attempt in later:
                continue
            tags = self._changed.get(attempt)
            if tags and attempt not in self._busy and self._later.get(attempt, 0.0) <= now:
                planned = self._planned(e)
                if planned is not None:
                    self._give(Job(attempt, planned, frozenset(tags)))
            due = self._compared.get(attempt, 0.0) + self._compare_every <= now
            if e.state is State.RUNNING and due and attempt not in self._comparing:
                planned = self._planned(e)
                self._compared[attempt] = now
                if planned is not None:
                    self._comparing.add(attempt)
                    place = server_of(planned.record) if planned.record else ""
                    self._mirrors.give(partial(self._compare, attempt, planned), place)

    def _compare(self, attempt: Attempt, planned: PlannedExperiment) -> None:
        try:
            mirrors.compare(planned, attempt, self._layout)
        except (HpcrunnerError, OSError) as error:
            log.info("%s: the client's record: %s", attempt[0], error)
        finally:
            self._comparing.discard(attempt)

    def _send_endings(self) -> None:
        for attempt, ending in self._endings.items():
            if (
                ending.settled is None
                and attempt not in self._busy
                and ending.not_before <= self._steady()
            ):
                planned = self._planned(ending.experiment)
                if planned is None:
                    ending.settled = ("its request cannot be read any more",)
                    continue
                self._give(Job(attempt, planned, ended=True, record=ending.record))

    def _give(self, job: Job) -> None:
        self._busy.add(job.attempt)
        servers = (server_of(a.location) for a in job.planned.artifacts if carried(a.location))
        self._workers.give(lambda: self._answers.put(self._sent(job)), next(servers, ""))

    def _sent(self, job: Job) -> Answer:
        """What became of it, a fault of ours too: an end waits for an answer."""
        try:
            return self._sender.send(job)
        except Exception as fault:
            log.exception("%s: a fault while its results were sent", job.attempt[0])
            what = one_line(f"{type(fault).__name__}: {fault}")
            return Answer(job, troubles=(Trouble(f"its results were not saved: {what}", True),))

    def _take_answers(self) -> None:
        while not self._answers.empty():
            answer = self._answers.get()
            self._busy.discard(answer.job.attempt)
            for trouble in answer.troubles:
                self._note(trouble)
            ending = self._endings.get(answer.job.attempt)
            if ending is not None and answer.job.ended:
                self._judge(ending, answer)
            elif answer.troubles:
                self._later[answer.job.attempt] = self._steady() + SAVE_PAUSE
                log.info("%s: %s", answer.job.attempt[0], answer.troubles[0].text)

    def _judge(self, ending: _Ending, answer: Answer) -> None:
        ending.troubles = answer.troubles
        waited = self._steady() - ending.since
        unseen = [t for t in answer.troubles if t.passing and not t.server]
        if not answer.troubles:
            ending.settled = ()
            self._clean_at = min(self._clean_at, self._steady() + CLEAN_SOON)
        elif (
            not any(t.passing for t in answer.troubles)
            or waited >= self._give_up_after
            or (unseen and waited >= SHOWN_WITHIN)
        ):
            self._give_up(ending)
        else:
            ending.not_before = self._steady() + ending.pause
            ending.pause = min(LONGEST_PAUSE, 2 * ending.pause)

    def _give_up(self, ending: _Ending) -> None:
        self._layout.keep((ending.experiment.id, ending.experiment.attempt))
        place = self._layout.out / f"{ending.experiment.id}.{ending.experiment.attempt}.*"
        ending.settled = (*(t.text for t in ending.troubles), f"what there is stays in {place}")

    def _note(self, trouble: Trouble) -> None:
        if not (trouble.passing and trouble.server):
            return
        not_before, pause = self._away.get(trouble.server, (0.0, FIRST_PAUSE))
        if not_before <= self._steady():
            self._away[trouble.server] = (
                self._steady() + pause,
                min(LONGEST_PAUSE, 2 * pause),
            )
            self._notices.warn(trouble.server, f"staging: {trouble.text}; tried again")

    def _is_away(self, server: str) -> bool:
        return self._away.get(server, (0.0, 0.0))[0] > self._steady()

    # What is over.

    def _planned(self, e: Experiment) -> PlannedExperiment | None:
        attempt = (e.id, e.attempt)
        if attempt not in self._plans:
            self._plans[attempt] = self._plan(e)
        return self._plans[attempt]

    def _clean(self) -> None:
        """Remove what is of attempts that are over, but for results that could not be sent."""
        for attempt in [a for a, e in self._endings.items() if e.settled is not None]:
            e = self._journal.of_id(attempt[0])
            if e is None or e.state.final or e.attempt != attempt[1]:
                del self._endings[attempt]
        over = [a for a in self._present if a not in self._busy and self._over(a)]
        for attempt in over:
            self._plans.pop(attempt, None)
            self._compared.pop(attempt, None)
            self._later.pop(attempt, None)
        if over:
            self._present = self._present - set(over)
            self._keeper.give(partial(self._forget, over))

    def _over(self, attempt: Attempt) -> bool:
        e = self._journal.of_id(attempt[0])
        if e is None:  # forgotten; or the journal was restored from a backup, and its job runs
            with suppress(OSError):
                status = self._layout.marker(attempt).stat()
                return status.st_mtime < time.time() - UNKNOWN_KEPT
            return True
        if e.attempt != attempt[1]:
            return True
        stays = e.reason is Reason.UPLOAD_FAILED or self._layout.kept(attempt)
        return e.state.final and not stays

    def _forget(self, attempts: Iterable[Attempt]) -> None:
        gone = set(attempts)
        for name in [n for n in self._stored if (p := parsed(n)) is not None and p[0] in gone]:
            del self._stored[name]
        try:
            self._sender.forget(gone)
        except OSError as error:
            log.warning("staging: what is over cannot be removed (%s)", error)

    def _sweep(self) -> None:
        try:
            self._sender.sweep(time.time())
            self._objects.sweep(time.time())
            wheels.sweep(self._layout, time.time())
        except OSError as error:
            log.warning("staging: %s cannot be swept (%s)", self._layout.objects, error)
