"""Which waiting experiments may be submitted now, in groups of one shape.

What is due is read once a round. Of that the site's rules let go whose turn it is, preparations
hold back what is not ready, and what the site bears and the gateway's own limits end the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from hpcrunner.crashpoint import crashpoint
from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.admission import admit
from hpcrunner.gateway.capacity import Capacity, Load, fitting, load_of, obstacle
from hpcrunner.gateway.experiment import Experiment, Outcome, State
from hpcrunner.gateway.fairness import Turn, in_turn, within_caps
from hpcrunner.gateway.following import end_unprepared
from hpcrunner.gateway.happenings import Ended, Tell
from hpcrunner.gateway.journal import Journal
from hpcrunner.gateway.preparation import LOOK_AGAIN, Preparations
from hpcrunner.gateway.retries import retries_left
from hpcrunner.request.plan import PlannedExperiment
from hpcrunner.request.reasons import Reason
from hpcrunner.sites.rules import rule_named
from hpcrunner.sites.site import Site
from hpcrunner.sites.spec import JobSpec

log = logging.getLogger(__name__)

_WITH_THE_SCHEDULER = (State.SUBMITTING, State.PENDING, State.RUNNING)
_NO_ROOM = "the gateway's own limits (--max-cores, --max-mem, --max-disk)"


class Lineup:
    """Who is next. Methods raise JournalError."""

    def __init__(
        self,
        journal: Journal,
        site: Site,
        *,
        clock: Callable[[], float],
        tell: Tell,
        capacity: Capacity,
        preparations: Preparations,
    ) -> None:
        self._journal = journal
        self._site = site
        self._clock = clock
        self._tell = tell
        self._capacity = capacity
        self._preparations = preparations
        self._full = False
        self._turn = Turn()
        self._waiting: tuple[Experiment, ...] = ()  # due, and nothing is left to be prepared
        self._preparing = False

    @property
    def held(self) -> Mapping[str, int]:
        """How many of each queue the site's rules held back at the last step."""
        return self._turn.held_of

    def take_turns(self) -> tuple[Experiment, ...]:
        """What is due and may go by the site's rules, in fair order."""
        due = self._journal.due(self._clock())
        crowd = self._journal.crowd(*_WITH_THE_SCHEDULER) if due else {}
        chosen = {e.id for e in self._turn.go}
        self._turn = within_caps(in_turn(due, crowd), self._site.rules, crowd, chosen)
        news = [(e.id, text) for e, text in self._turn.held if e.pending != text]
        if news:
            self._journal.waits(news)
        return self._turn.go

    def look(self) -> None:
        """See what may be submitted now; begin to prepare the others, and end what failed."""
        look = self._preparations.look(self.take_turns(), self._plan)
        self._waiting, self._preparing = look.go, look.preparing
        if look.failed:
            told = end_unprepared(self._journal, self._site, look.failed, self._clock())
            crashpoint("preparation.ended")
            for happening in told:
                self._tell(happening)
        if look.remarks:
            self._journal.waits(look.remarks)

    def groups(self) -> Iterator[tuple[JobSpec, list[Experiment]]]:
        """Waiting experiments of one shape, each as its first one's turn comes, within the room
        that the site has.
        """
        limits = self._site.limits
        self._full = False
        waiting = self._possible(self._waiting)
        room = limits.max_jobs - self._journal.count(*_WITH_THE_SCHEDULER) if waiting else 0
        gone: set[str] = set()
        groups: dict[JobSpec, list[Experiment]] = {}
        for e in waiting[: max(0, room)]:
            if e.spec is not None:
                groups.setdefault(e.spec, []).append(e)
        load = self._load() if groups else Load()
        for spec, members in groups.items():
            while members:
                size = min(len(members), limits.largest_array)
                size = fitting(spec, self._capacity, load, size)
                if size == 0:
                    # Smaller ones behind it wait too, or it would wait for ever.
                    self._full = True
                    self._wait_for_room([e for e in waiting if e.id not in gone])
                    return
                group, members = members[:size], members[size:]
                gone.update(e.id for e in group)
                load = load.plus(spec, size)
                yield spec, group
        self._full = len(waiting) > room or bool(self._turn.held)

    def looks_at(self) -> float | None:
        """When (epoch seconds) there may be something to submit; None while nothing waits, or it
        waits for room.
        """
        accepted = self._journal.next_due()
        if accepted is None or (self._full and not self._preparing):
            return None
        looks = self._preparing and (self._full or not self._waiting)
        return max(accepted, self._clock() + LOOK_AGAIN) if looks else accepted

    def planned(self, experiment: Experiment) -> PlannedExperiment | None:
        """What the job side is told of it, all that was prepared included.

        None where the site does not take it any more: then it is set aside.
        """
        planned = self._plan(experiment)
        return None if planned is None else self._preparations.apply(experiment, planned)

    def _possible(self, waiting: Sequence[Experiment]) -> list[Experiment]:
        """Those that fit within the gateway's own limits; the others are set aside."""
        obstacles: dict[str, list[Experiment]] = {}
        possible = []
        for e in waiting:
            text = obstacle(e.spec, self._capacity) if e.spec is not None else ""
            if text:
                obstacles.setdefault(text, []).append(e)
            else:
                possible.append(e)
        for text, members in obstacles.items():
            self._set_aside(members, Reason.REJECTED, f"{text}; ask for less")
        return possible

    def _load(self) -> Load:
        """What is with the scheduler asks for, as far as anybody wants to know."""
        if not self._capacity.limited:
            return Load()
        there = self._journal.in_state(*_WITH_THE_SCHEDULER)
        return load_of(e.spec for e in there if e.spec is not None)

    def _wait_for_room(self, left: Sequence[Experiment]) -> None:
        news = [(e.id, _NO_ROOM) for e in left if e.pending != _NO_ROOM]
        if news:
            self._journal.waits(news)

    def _plan(self, experiment: Experiment) -> PlannedExperiment | None:
        message = self._journal.message(experiment.id)
        try:
            # Judged at its arrival: what was in time then is not refused for waiting here.
            rule = rule_named(self._site.rules, experiment.rule)
            admission = admit(message, self._site, experiment.received_at, rule)
            retries = retries_left(experiment, self._site.retries, admission.request.retries)
            # The job has the shape that was journalled, whatever the site says by now.
            admission = replace(admission, spec=experiment.spec or admission.spec)
            return admission.planned(
                experiment=experiment.id, attempt=experiment.attempt, retries=retries
            )
        except HpcrunnerError as error:
            # The site file has changed since it was accepted.
            self._set_aside([experiment], Reason.REJECTED, error.line())
            return None

    def _set_aside(self, experiments: Sequence[Experiment], reason: Reason, text: str) -> None:
        outcome = Outcome(State.REJECTED, reason, text)
        self._journal.end([(e.id, outcome) for e in experiments])
        for e in experiments:
            log.warning(
                "%s set aside: %s", e.id, text, extra={"experiment": e.id, "queue": e.queue}
            )
            self._tell(Ended(e, outcome))
