"""What has ended long enough ago to go: the policy, applied to facts. Pure.

Ages count from the last entry of an experiment's history, which the gateway's own clock wrote:
the times of nodes and of the scheduler may be wrong by years. Credentials go first, then all
the rest; a batch goes as a whole, once every experiment that ever had a task in it may go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpcrunner.sites.parts import Retention

# Seconds for which reports are tried to be sent after an ending, and logs and rows wait for that.
TOLD_FOR = 86400.0
# Whoever waits for an ending (submit --wait, logs -f) looks more often than that.
LEAST = 60.0


@dataclass(frozen=True, slots=True)
class Ages:
    """How old things get, in seconds; None: for ever. See the site's ``retention``."""

    secrets: float | None
    ended: float | None
    dead: float | None
    repeat_window: float
    store: float | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """An experiment as retention sees it. Times are epoch seconds.

    ``wished``: somebody's wish about it waits in the spool. ``present``: the batch in question is
    that of its last attempt. ``secret`` is the size of its message, 0 once that was removed.
    ``touched_at`` is the last entry of its history. ``reporting``: reports of it are still due.
    """

    id: str
    final: bool
    settled: bool
    dead: bool
    wished: bool
    present: bool
    secret: int
    touched_at: float
    ended_at: float | None
    reporting: bool = False


@dataclass(frozen=True, slots=True)
class Fate:
    """What may go of a batch now. ``blank``: whose messages; with ``whole``, everything."""

    whole: bool = False
    plan: bool = False
    blank: tuple[Trace, ...] = ()


KEPT = Fate()


def ages_of(policy: Retention, repeat_window: float, older_than: float | None = None) -> Ages:
    """The site's policy; ``older_than`` (seconds) stands for its ``ended`` this once."""
    ended = policy.ended if older_than is None else older_than
    return Ages(policy.secrets, ended, policy.dead, repeat_window, policy.store)


def fate_of(
    members: Sequence[Trace], ages: Ages, now: float, *, busy: bool, touched_at: float
) -> Fate:
    """What may go of a batch with these experiments, former attempts' included.

    ``busy``: it may still be submitted, or the scheduler works on it. ``touched_at`` decides for
    a batch of which the journal knows no experiment any more.
    """
    if busy or not all(_at_rest(m) for m in members):
        return KEPT
    if not members:
        whole = _older(touched_at, _at_least(ages.ended, ages), now)
        return Fate(whole=whole, plan=_older(touched_at, ages.secrets, now))
    plan = all(_older(m.touched_at, ages.secrets, now) for m in members)
    return Fate(
        whole=all(may_go(m, ages, now) for m in members),
        plan=plan,
        blank=tuple(m for m in members if plan and m.present and m.secret and not m.dead),
    )


def may_blank(trace: Trace, ages: Ages, now: float) -> bool:
    """Whether the message of an experiment that never had a batch may go."""
    return (
        _at_rest(trace)
        and not trace.dead
        and trace.secret > 0
        and _older(trace.touched_at, ages.secrets, now)
    )


def may_go(trace: Trace, ages: Ages, now: float) -> bool:
    """Whether nobody needs anything of this experiment any more.

    As long as a copy of its message would be recognised by it, it stays; and while reports of it
    are due, for a day.
    """
    age = _at_least(ages.dead if trace.dead else ages.ended, ages)
    repeatable = trace.ended_at is not None and trace.ended_at >= now - ages.repeat_window
    reporting = trace.reporting and now - trace.touched_at < TOLD_FOR
    at_rest = _at_rest(trace) and not repeatable and not reporting
    return at_rest and _older(trace.touched_at, age, now)


def unknown_may_go(changed_at: float, ages: Ages, now: float) -> bool:
    """Whether a batch's folder that the journal does not know may go; nobody can retry it."""
    longest = None if ages.ended is None or ages.dead is None else max(ages.ended, ages.dead)
    return _older(changed_at, _at_least(longest, ages), now)


def _at_rest(trace: Trace) -> bool:
    return trace.final and trace.settled and not trace.wished


def _at_least(age: float | None, ages: Ages) -> float | None:
    return None if age is None else max(age, ages.repeat_window, LEAST)


def _older(at: float, age: float | None, now: float) -> bool:
    return age is not None and now - at >= age
