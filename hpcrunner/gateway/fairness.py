"""In which order waiting experiments go to the scheduler, and which the site's rules hold back.

Pure. An owner's first experiment goes before another's second: who has less with the scheduler
already is served first, and among equals who has waited longer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hpcrunner.gateway.experiment import Experiment, Whose
from hpcrunner.queues.contract import Shares
from hpcrunner.sites.rules import Rule, may_be_capped, rule_named, weight_of
from hpcrunner.sites.site import Site

Crowd = Mapping[Whose, int]


@dataclass(frozen=True, slots=True)
class Turn:
    """Who may go to the scheduler, in order, and who waits for which limit, in words."""

    go: tuple[Experiment, ...] = ()
    held: tuple[tuple[Experiment, str], ...] = ()

    @property
    def held_of(self) -> Counter[str]:
        """How many of each queue are held."""
        return Counter(e.queue for e, _ in self.held)


def in_turn(waiting: Sequence[Experiment], crowd: Crowd) -> list[Experiment]:
    """The waiting ones, oldest first, in the order in which they go; ``crowd`` is there."""
    ranks: Counter[str] = Counter()
    for whose, count in crowd.items():
        ranks[whose.owner] += count
    order = []
    for place, e in enumerate(waiting):
        order.append((ranks[e.owner], place, e))
        ranks[e.owner] += 1
    return [e for _, _, e in sorted(order, key=lambda entry: entry[:2])]


def within_caps(
    ordered: Sequence[Experiment],
    rules: Sequence[Rule],
    crowd: Crowd,
    chosen: Collection[str] = (),
) -> Turn:
    """Those of ``ordered`` that the rules let go beside the ``crowd`` that is there.

    The ids of ``chosen`` come first: what was let go and is not gone yet may be half prepared.
    """
    if not any(rule.capped for rule in rules):
        return Turn(tuple(ordered))
    there: Counter[tuple[str, str, str]] = Counter()
    for whose, count in crowd.items():
        for key, _, _ in _caps(rules, whose):
            there[key] += count
    go: set[str] = set()
    held: dict[str, str] = {}
    for e in sorted(ordered, key=lambda e: e.id not in chosen):
        caps = list(_caps(rules, Whose(e.rule, e.queue, e.owner)))
        full = next((words for key, most, words in caps if there[key] >= most), None)
        if full is not None:
            held[e.id] = full
            continue
        go.add(e.id)
        there.update(key for key, _, _ in caps)
    return Turn(
        tuple(e for e in ordered if e.id in go),
        tuple((e, held[e.id]) for e in ordered if e.id in held),
    )


def _caps(rules: Sequence[Rule], whose: Whose) -> Iterator[tuple[tuple[str, str, str], int, str]]:
    """What its rule limits: what counts together, the most of it, and that in words."""
    rule = rule_named(rules, whose.rule)
    if rule is None:
        return
    for key, most, together in (
        ((rule.name, "", ""), rule.max_jobs, ""),
        ((rule.name, "queue", whose.queue), rule.max_jobs_per_queue, " of one queue"),
        ((rule.name, "owner", whose.owner), rule.max_jobs_per_owner, " of one owner"),
    ):
        if most is not None:
            yield key, most, f"rule {rule.name}: at most {most}{together} in the scheduler at once"


class SiteShares(Shares):
    """The site's weights of queues, and how much more of a queue may be held back here."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._weights: dict[str, int] = {}
        self._capped: dict[str, bool] = {}
        self._held: Mapping[str, int] = {}

    def hold(self, held: Mapping[str, int]) -> None:
        """So many of each queue are held back now."""
        self._held = held

    def weight(self, queue: str) -> int:
        """See Shares.weight."""
        if queue not in self._weights:
            self._weights[queue] = weight_of(self._site.queue_weights, queue)
        return self._weights[queue]

    def room(self, queue: str) -> int | None:
        """See Shares.room."""
        if queue not in self._capped:
            self._capped[queue] = may_be_capped(self._site.rules, queue)
        if not self._capped[queue]:
            return None
        return max(0, self._site.limits.max_held - self._held.get(queue, 0))
