"""Which queues are ours: the StudioML runner's name filters."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hpcrunner.queues.errors import OptionInvalid

DEFAULT_MATCH = r"^(rmq|sqs|local|pubsub)_.*$"
RESPONSE_SUFFIX = "_response"


class QueueFilter:
    """``--queue-match`` and ``--queue-mismatch`` over bare queue names.

    Both search anywhere in the name, as the Go runner's do; an empty ``mismatch`` excludes
    nothing, and where both find something the mismatch wins. Report queues (``*_response``)
    and names that are not printable text are never ours. Raises OptionInvalid.
    """

    def __init__(self, match: str = DEFAULT_MATCH, mismatch: str = "") -> None:
        self._match = _compiled(match, "--queue-match")
        self._mismatch = _compiled(mismatch, "--queue-mismatch") if mismatch else None

    @classmethod
    def only(cls, names: Iterable[str]) -> QueueFilter:
        """A filter that admits exactly these names. Raises OptionInvalid for a name never ours."""
        wanted = tuple(names)
        for name in wanted:
            if not _ever_ours(name):
                raise OptionInvalid(
                    f"{name!r} is not a queue of requests",
                    where="--queue",
                    remedy=f"give a printable name that does not end in {RESPONSE_SUFFIX}",
                )
        return cls(match=rf"\A(?:{'|'.join(map(re.escape, wanted))})\Z")

    def admits(self, *names: str) -> bool:
        """Whether requests are taken from the queue of this name, or of these names of one queue.

        Of several names each must be one that can be ours at all; it takes one that matches,
        and none that the mismatch finds.
        """
        if not all(map(_ever_ours, names)) or not any(map(self._match.search, names)):
            return False
        return self._mismatch is None or not any(map(self._mismatch.search, names))


def _ever_ours(name: str) -> bool:
    return bool(name) and name.isprintable() and not name.endswith(RESPONSE_SUFFIX)


def _compiled(pattern: str, option: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise OptionInvalid(
            f"{pattern!r} is not a regular expression: {error}",
            where=option,
            remedy="see Python's re syntax",
        ) from error
