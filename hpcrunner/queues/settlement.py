"""The fewest acknowledgements that settle a set of deliveries of one channel."""

from __future__ import annotations

from collections.abc import Set
from itertools import takewhile


def settlements(unsettled: Set[int], wanted: Set[int]) -> list[tuple[int, bool]]:
    """Pairs of delivery tag and ``multiple``, which settle ``wanted`` and nothing else.

    ``multiple`` settles every unsettled tag up to its own (AMQP 0-9-1, basic.ack), so it serves
    for as long as all of them are wanted; the rest goes one by one. Tags that are not unsettled
    are left out: to settle one twice would close the channel.
    """
    ordered = sorted(unsettled)
    prefix = list(takewhile(wanted.__contains__, ordered))
    rest = [tag for tag in ordered[len(prefix) :] if tag in wanted]
    first = [(prefix[-1], len(prefix) > 1)] if prefix else []
    return first + [(tag, False) for tag in rest]
