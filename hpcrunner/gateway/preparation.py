"""What has to be there before an experiment is submitted, and when a shape's batch is formed.

A ``Preparation`` (images, artifacts and packages for nodes without a network) does its work in
threads of its own, a bounded number of them; the gateway's loop only looks. Nothing of it is
journalled: after a crash the same is wanted again, and found complete or begun again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.experiment import Experiment
from hpcrunner.request.plan import PlannedExperiment
from hpcrunner.request.reasons import Reason
from hpcrunner.sites.spec import JobSpec

# Ready ones wait for others of their shape: for so many seconds after the last one became ready,
QUIET = 15.0
GATHER = 120.0  # and never longer than this after the first one did
LOOK_AGAIN = 0.5  # seconds between two looks while something is being prepared
_NEW_A_ROUND = 200  # experiments whose preparation is begun in one round
LEAVING = "could not be prepared; its output is being saved"
_TELL_EVERY = 5.0  # seconds between two remarks; each is a synced write

Attempt = tuple[str, int]  # an experiment's id, and the attempt's number


@dataclass(frozen=True, slots=True)
class Ready:
    """All is there."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Under way; ``text`` is for people (``fetching 2 of 5 artifacts``)."""

    text: str


@dataclass(frozen=True, slots=True)
class Failed:
    """It cannot be had: the attempt ends for that reason, by which another may follow.

    ``lines`` are the last ones of what an installer printed.
    """

    reason: Reason
    text: str
    lines: tuple[str, ...] = ()


Standing = Ready | Waiting | Failed
READY = Ready()


class Preparation(Protocol):
    """One kind of thing to prepare. All methods are called from the gateway's loop, and come
    back at once.
    """

    def want(self, experiment: Experiment, planned: PlannedExperiment) -> None:
        """Begin to prepare this attempt, unless that has been begun."""
        ...

    def standing(self, experiment: Experiment) -> Standing | None:
        """How far this attempt is; None where it was not wanted yet (in this process)."""
        ...

    def apply(self, experiment: Experiment, planned: PlannedExperiment) -> PlannedExperiment:
        """The plan with what was prepared: other addresses, an image's path. Only when READY."""
        ...

    def step(self, wanted: Collection[Attempt]) -> None:
        """Called each round: stop and forget whatever is for none of ``wanted``.

        An attempt that was submitted, cancelled or that failed is wanted no more.
        """
        ...

    def close(self) -> None:
        """Stop all that is under way, child processes too; nothing is left running."""
        ...


def failure_of(error: HpcrunnerError) -> Failed:
    """The failure that an error means, by its own reason, as the job side has it."""
    reason = getattr(error, "reason", Reason.JOB_SIDE_FAULT)
    return Failed(reason, error.line(), getattr(error, "lines", ()))


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at the waiting experiments found.

    ``go`` may be submitted now. ``remarks`` are pairs of id and text that are news.
    """

    go: tuple[Experiment, ...] = ()
    failed: tuple[tuple[Experiment, Failed], ...] = ()
    remarks: tuple[tuple[str, str], ...] = ()
    preparing: bool = False


class Farewell(Protocol):
    """What an attempt that failed leaves its client, before its ending is told."""

    def said(
        self,
        failed: Sequence[tuple[Experiment, Failed]],
        plan: Callable[[Experiment], PlannedExperiment | None],
    ) -> list[tuple[Experiment, Failed]]:
        """Those of all that failed of which nothing is still to be left."""
        ...

    def close(self) -> None:
        """Begin nothing more."""
        ...


@dataclass
class _Shape:
    ready: list[Experiment] = field(default_factory=list)
    preparing: int = 0


@dataclass
class _Hold:
    """Since when ready ones of a shape wait, when the last one came to them, and how many."""

    since: float
    news_at: float
    count: int = 0


class Preparations:
    """All kinds together. An experiment is ready when every kind says so.

    Ready experiments wait for others of their shape that are still being prepared, so that a
    generation travels as one array: until the last is ready or has failed, until an array of
    ``largest_array`` is full, or for QUIET and GATHER seconds. With a ``farewell`` those that
    failed are told of once that is over.
    """

    def __init__(
        self,
        kinds: Sequence[Preparation] = (),
        *,
        clock: Callable[[], float],
        largest_array: int = 1000,
        farewell: Farewell | None = None,
    ) -> None:
        self._kinds = kinds
        self._clock = clock
        self._largest_array = largest_array
        self._farewell = farewell
        self._holds: dict[JobSpec, _Hold] = {}
        self._told_at = 0.0

    def look(
        self,
        due: Sequence[Experiment],
        plan: Callable[[Experiment], PlannedExperiment | None],
    ) -> Look:
        """Begin what was not begun, and say which of the ``due`` may go.

        ``plan`` gives an attempt's plan, or None for one that it has set aside itself.
        """
        if not self._kinds:
            return Look(go=tuple(due))
        wanted = {(e.id, e.attempt) for e in due}
        for kind in self._kinds:
            kind.step(wanted)
        new = 0
        failed: list[tuple[Experiment, Failed]] = []
        remarks: dict[str, str] = {}
        shapes: dict[JobSpec, _Shape] = {}
        for e in due:
            if e.spec is None:
                continue
            standing = self._standing(e)
            if standing is None and new < _NEW_A_ROUND:
                new += 1
                planned = plan(e)
                if planned is None:
                    continue
                standing = self._begun(e, planned)
            shape = shapes.setdefault(e.spec, _Shape())
            if isinstance(standing, Ready):
                shape.ready.append(e)
            elif isinstance(standing, Failed):
                failed.append((e, standing))
            else:
                shape.preparing += 1
                remarks[e.id] = standing.text if standing else "waits to be prepared"
        go = self._going(shapes, remarks)
        if self._farewell is not None:
            remarks.update((e.id, LEAVING) for e, _ in failed)
            failed = self._farewell.said(failed, plan)
            for e, _ in failed:
                remarks.pop(e.id, None)
        return Look(
            go=tuple(e for e in due if e.id in go),
            failed=tuple(failed),
            remarks=self._news(due, remarks),
            preparing=bool(remarks),
        )

    def apply(self, experiment: Experiment, planned: PlannedExperiment) -> PlannedExperiment:
        """The plan with all that was prepared."""
        for kind in self._kinds:
            planned = kind.apply(experiment, planned)
        return planned

    def close(self) -> None:
        """Stop all that is under way."""
        for kind in self._kinds:
            kind.close()
        if self._farewell is not None:
            self._farewell.close()

    def _begun(self, e: Experiment, planned: PlannedExperiment) -> Standing | None:
        for kind in self._kinds:
            if kind.standing(e) is None:
                kind.want(e, planned)
        return self._standing(e)

    def _standing(self, e: Experiment) -> Standing | None:
        standings = [kind.standing(e) for kind in self._kinds]
        for standing in standings:
            if isinstance(standing, Failed):
                return standing
        if None in standings:
            return None
        return next((s for s in standings if isinstance(s, Waiting)), READY)

    def _going(self, shapes: Mapping[JobSpec, _Shape], remarks: dict[str, str]) -> set[str]:
        now = self._clock()
        holds: dict[JobSpec, _Hold] = {}
        go: set[str] = set()
        for spec, shape in shapes.items():
            ready = shape.ready
            hold = self._holds.get(spec, _Hold(now, now))
            if len(ready) > hold.count:
                hold.news_at = now
            over = now - hold.news_at >= QUIET or now - hold.since >= GATHER
            if ready and shape.preparing and not over:
                full = len(ready) - len(ready) % self._largest_array
                ready, held = ready[:full], ready[full:]
                text = f"is prepared; waits for {shape.preparing} more of its shape"
                remarks.update((e.id, text) for e in held)
                hold.count = len(held)
                if held:
                    holds[spec] = hold
            go.update(e.id for e in ready)
        self._holds = holds  # what becomes ready after its shape went waits anew
        return go

    def _news(
        self, due: Sequence[Experiment], remarks: Mapping[str, str]
    ) -> tuple[tuple[str, str], ...]:
        said = ((e, remarks.get(e.id, e.pending)) for e in due)
        news = tuple((e.id, text) for e, text in said if text != e.pending)
        if not news or self._clock() - self._told_at < _TELL_EVERY:
            return ()
        self._told_at = self._clock()
        return news
