"""A source for each credential there is at the moment: one that is added starts its queues, one
that is removed stops them, one that is changed starts them anew.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hpcrunner.errors import HpcrunnerError
from hpcrunner.notices import Notices
from hpcrunner.queues.contract import EQUAL, Delivery, Served, Shares, Source
from hpcrunner.queues.turns import Portions

log = logging.getLogger(__name__)

PERIOD = 10.0  # seconds between two looks
_DEEPEST = 8  # folders in folders

# What changes when a file is written anew, replaced, or given another mode.
Stamp = tuple[tuple[str, int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class _Routed:
    """The handle of a delivery: whose it is, and the delivery as that one knows it."""

    source: Source
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class _Opened:
    source: Source
    stamp: Stamp


class WatchedSource:
    """The sources of all credentials that ``look`` finds; see Source.

    ``look`` tells which there are and how they look, by name, and raises OSError where it cannot;
    ``make`` makes the source of one of them, or raises HpcrunnerError, which is logged once and
    costs no other. ``kind`` is Served's; ``clock`` is monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        look: Callable[[], Mapping[str, Stamp]],
        make: Callable[[str], Source],
        clock: Callable[[], float] = time.monotonic,
        *,
        shares: Shares = EQUAL,
    ) -> None:
        self._portions = Portions(clock, shares.weight)
        self._name = name
        self._kind = kind
        self._look = look
        self._make = make
        self._clock = clock
        self._notices = Notices(log)
        self._opened: dict[str, _Opened] = {}
        self._turns: deque[str] = deque()
        self._look_at = float("-inf")
        self._past = Served(kind)

    @property
    def name(self) -> str:
        """See Source.name."""
        return self._name

    def take(self, most: int) -> list[Delivery]:
        """See Source.take."""
        self._watch()
        self._turns.rotate(-1)  # so that a full one starves nobody
        taken: list[Delivery] = []
        for name, portion in self._portions.of(list(self._turns), most):
            source = self._opened[name].source
            came = source.take(portion)
            self._portions.came(name, (delivery.queue for delivery in came))
            taken += [
                replace(delivery, handle=_Routed(source, delivery), server=source.name)
                for delivery in came
            ]
        return taken

    def accept(self, deliveries: Sequence[Delivery]) -> None:
        """See Source.accept."""
        for source, own in _by_source(deliveries):
            source.accept(own)

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """See Source.give_back."""
        for source, own in _by_source(deliveries):
            source.give_back(own)

    def served(self) -> Served:
        """See Source.served."""
        parts = [opened.source.served() for opened in self._opened.values()]
        return Served(
            self._kind,
            tuple(sorted({queue for part in parts for queue in part.queues})),
            sum(part.listed for part in (self._past, *parts)),
            sum(part.unlisted for part in (self._past, *parts)),
        )

    def close(self) -> None:
        """See Source.close."""
        for opened in self._opened.values():
            opened.source.close()

    def _watch(self) -> None:
        if self._clock() < self._look_at:
            return
        self._look_at = self._clock() + PERIOD
        try:
            found = self._look()
        except OSError as error:
            # A folder that is away for a moment is no reason to leave all its queues.
            self._notices.warn("look", f"{self._name}: cannot be read: {error.strerror}; waiting")
            return
        self._notices.over("look", f"{self._name}: can be read again")
        for name in [n for n, opened in self._opened.items() if found.get(n) != opened.stamp]:
            self._leave(name, "changed" if name in found else "removed")
        for name, stamp in found.items():
            if name not in self._opened:
                self._open(name, stamp)
        self._turns = deque([n for n in self._turns if n in self._opened])
        self._turns.extend(n for n in self._opened if n not in self._turns)

    def _leave(self, name: str, why: str) -> None:
        source = self._opened.pop(name).source
        log.info("%s: the credentials of %s are %s", self._name, source.name, why)
        source.close()
        self._past = replace(
            self._past,
            listed=self._past.listed + source.served().listed,
            unlisted=self._past.unlisted + source.served().unlisted,
        )

    def _open(self, name: str, stamp: Stamp) -> None:
        try:
            source = self._make(name)
        except HpcrunnerError as error:
            self._notices.warn(name, f"{error.line()}; skipped")
            return
        self._notices.over(name)
        log.info("%s: the queues of %s are served", self._name, source.name)
        self._opened[name] = _Opened(source, stamp)


def folders_in(root: Path) -> dict[str, Stamp]:
    """The sub-folders of ``root`` whose names do not start with a dot, links followed, and how
    the files in them look. Raises OSError.
    """
    found = {}
    for folder in sorted(root.iterdir()):
        if not folder.name.startswith(".") and folder.is_dir():
            try:
                found[str(folder)] = stamp_of(p for p in folder.iterdir() if p.name[0] != ".")
            except OSError:
                found[str(folder)] = ()
    return found


def files_below(root: Path, suffix: str) -> dict[str, Stamp]:
    """The regular files below ``root`` of that suffix, and how they look. Raises OSError.

    What starts with a dot is passed by: Kubernetes keeps the files that it shows under their
    names in such folders too.
    """
    return {str(path): stamp_of([path]) for path in _below(root, suffix, _DEEPEST)}


def _below(folder: Path, suffix: str, depth: int) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if depth > 1 and not path.is_symlink() and os.access(path, os.R_OK | os.X_OK):
                yield from _below(path, suffix, depth - 1)
        elif path.suffix == suffix and path.is_file():
            yield path


def stamp_of(paths: Iterable[Path]) -> Stamp:
    """How these files look now; one that is gone, or is none, is left out."""
    looks = []
    for path in sorted(paths):
        try:
            found = path.stat()
        except OSError:
            continue
        if stat.S_ISREG(found.st_mode):
            times = (found.st_mtime_ns, found.st_ctime_ns)
            looks.append((path.name, *times, found.st_size, found.st_ino))
    return tuple(looks)


def _by_source(deliveries: Sequence[Delivery]) -> Iterator[tuple[Source, list[Delivery]]]:
    by_source: dict[int, tuple[Source, list[Delivery]]] = {}
    for delivery in deliveries:
        routed = delivery.handle
        if not isinstance(routed, _Routed):
            raise TypeError("a delivery of another source")
        own = by_source.setdefault(id(routed.source), (routed.source, []))
        own[1].append(routed.delivery)
    yield from by_source.values()
