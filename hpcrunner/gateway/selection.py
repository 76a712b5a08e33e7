"""Which experiments are meant: by what they are, where naming each one would be too long. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.experiment import Experiment, State


class SelectionInvalid(HpcrunnerError):
    """A filter that means nothing."""

    exit_code = 64  # EX_USAGE


@dataclass(frozen=True, slots=True)
class Selection:
    """Filters that all have to hold; an empty one always does.

    ``match`` is a regular expression that is searched for in the client's key. ``states`` are
    names of State, in any case.
    """

    queue: str = ""
    owner: str = ""
    project: str = ""
    match: str = ""
    states: Sequence[str] = ()

    def __bool__(self) -> bool:
        """True where at least one filter is given."""
        return bool(self.queue or self.owner or self.project or self.match or self.states)

    def of(self, experiments: Iterable[Experiment]) -> list[Experiment]:
        """Those that are meant, in their order. Raises SelectionInvalid."""
        try:
            key = re.compile(self.match)
        except re.error as error:
            raise SelectionInvalid(
                f"is no regular expression ({error})", where=f"--match {self.match!r}"
            ) from error
        states = {_state(word) for word in self.states}
        return [
            e
            for e in experiments
            if self.queue in ("", e.queue)
            and self.owner in ("", e.owner)
            and self.project in ("", e.project)
            and (not states or e.state in states)
            and key.search(e.key)
        ]


def _state(word: str) -> State:
    try:
        return State(word.upper())
    except ValueError:
        raise SelectionInvalid(
            "is no state", where=f"--state {word}", remedy=f"one of {', '.join(State)}"
        ) from None
