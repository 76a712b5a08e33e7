"""What accounting has said of the user's runs, kept: no look reads the whole file again.

qacct(1) reads all of the accounting file each time, gigabytes on a large site, and can choose by a
run's start only, so that what one long job needs grows with all that ended meanwhile. Here it is
asked for the whole once. After that only the lines that were added since are handed to it
(``qacct -f``), of which those without our names are left out; where none is left it is not run.

Where the file is not to be seen from here, was begun anew, or says nothing of a job that should be
there (it may not be the one that qacct reads), the whole is asked for again, the last of these now
and then only.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpcrunner.batch.batch import NAME_PREFIX
from hpcrunner.schedulers.command import Completed
from hpcrunner.schedulers.contract import Job, SchedulerUnavailable
from hpcrunner.schedulers.gridengine import qacct
from hpcrunner.schedulers.gridengine.qacct import AccountedJob, Accounts
from hpcrunner.schedulers.gridengine.states import rescheduled

_MOST = 64 << 20  # bytes that are read as added; with more the whole is no dearer
_KEPT = 20_000  # runs; with more those that nobody asks for any more are forgotten
_LINE = 1 << 16  # bytes; no line of the file is longer

Missing = Callable[[Accounts], bool]


@dataclass(frozen=True, slots=True)
class _Mark:
    """How far a file was read: which one, and the end of its last whole line that was."""

    device: int
    inode: int
    offset: int


@dataclass(frozen=True, slots=True)
class _Added:
    """Lines with our names, and the mark behind them."""

    lines: list[bytes]
    mark: _Mark


@dataclass(slots=True)
class Ledger:
    """``ask`` runs a command. ``file`` is the accounting file, None where nobody knows it.

    ``again``: seconds after which the whole is asked for again, while a job is missing.
    """

    user: str
    ask: Callable[[Sequence[str]], Completed]
    file: Path | None
    again: float
    clock: Callable[[], float] = time.monotonic
    _mark: _Mark | None = field(default=None, repr=False)
    _since: float = field(default=0.0, repr=False)
    _asked_at: float = field(default=float("-inf"), repr=False)
    _runs: dict[Job, AccountedJob] = field(default_factory=dict, repr=False)

    def look(self, since: float, missing: Missing) -> Accounts:
        """All runs that began after ``since`` (epoch).

        ``missing``: whether what was found leaves anything to be wished for. Raises
        SchedulerUnavailable.
        """
        added = self._added() if since >= self._since else None
        if added is None or not self._take(added):
            return self.whole(since, missing)
        if len(self._runs) > _KEPT:
            self._forget(since)
        found = Accounts(self._runs)
        if self.clock() - self._asked_at >= self.again and missing(found):
            return self.whole(since, missing)
        return found

    def whole(self, since: float, missing: Missing) -> Accounts:
        """The same by all that there is; and of runs that failed before they began, if any is
        missing.
        """
        # First the mark: what is added while qacct reads is read twice, and not never.
        mark = self._end()
        runs = dict(qacct.parse(self.ask(qacct.argv(self.user, since))).runs)
        if missing(Accounts(runs)):
            for job, run in qacct.parse(self.ask(qacct.unbegun_argv(self.user))).runs.items():
                if job not in runs or rescheduled(runs[job].failed):
                    runs[job] = run
        self._runs, self._mark, self._since = runs, mark, since
        self._asked_at = self.clock()
        return Accounts(runs)

    def _take(self, added: _Added) -> bool:
        """Take up what was added; False where qacct cannot be had to read it."""
        try:
            if added.lines:
                self._runs = {**self._runs, **self._of_lines(added.lines)}
        except (OSError, SchedulerUnavailable):
            return False
        self._mark = added.mark
        return True

    def _forget(self, since: float) -> None:
        """Leave out what ended before anything that is asked for was submitted."""
        before = since - qacct.SKEW
        self._runs = {j: run for j, run in self._runs.items() if (run.ended_at or since) >= before}
        self._since = since

    def _of_lines(self, lines: Collection[bytes]) -> Mapping[Job, AccountedJob]:
        with tempfile.NamedTemporaryFile(
            prefix="hpcrunner-", suffix=self.file.name if self.file else ""
        ) as file:
            file.writelines(lines)
            file.flush()
            return qacct.parse(self.ask(qacct.argv_of_file(self.user, file.name))).runs

    def _end(self) -> _Mark | None:
        """The end of the file's last whole line; None where the file is not to be seen."""
        if self.file is None:
            return None
        try:
            with self.file.open("rb") as file:
                size = file.seek(0, 2)
                begin = max(size - _LINE, 0)
                file.seek(begin)
                end = begin + file.read(size - begin).rfind(b"\n") + 1
                return _mark_of(file.fileno(), end)
        except OSError:
            return None

    def _added(self) -> _Added | None:
        """Our lines that were added; None where only the whole can tell."""
        if self.file is None or self._mark is None:
            return None
        try:
            with self.file.open("rb") as file:
                size = file.seek(0, 2)
                begin = self._mark.offset
                if _mark_of(file.fileno(), begin) != self._mark or not 0 <= size - begin <= _MOST:
                    return None
                file.seek(begin)
                text = file.read(size - begin)
                end = text.rfind(b"\n") + 1
                lines = text[:end].splitlines(keepends=True)
                ours = [line for line in lines if NAME_PREFIX.encode() in line]
                return _Added(ours, _mark_of(file.fileno(), begin + end))
        except OSError:
            return None


def _mark_of(handle: int, offset: int) -> _Mark:
    found = os.fstat(handle)
    return _Mark(found.st_dev, found.st_ino, offset)
