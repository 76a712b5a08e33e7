"""What an attempt that could not be prepared leaves its client, before its ending is told.

The same as the job side leaves when it cannot begin: the reason in ``output``, the documents of
its metadata, and, where another attempt follows, the client's record that waits again. A few
threads do it, and try again for as long as the job side would; the attempt's ending waits for
them. Nothing of it is journalled: after a crash the preparation is begun again, and fails again
or does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from hpcrunner.accessions import Taken, accession_for
from hpcrunner.crashpoint import crashpoint
from hpcrunner.errors import HpcrunnerError, one_line
from hpcrunner.gateway.experiment import Experiment
from hpcrunner.gateway.preparation import Attempt, Failed
from hpcrunner.gateway.staging.sending import server_of
from hpcrunner.gateway.staging.workers import Workers
from hpcrunner.gateway.unprepared import (
    UNSAVED,
    contacted_by,
    output_of,
    write_documents,
    write_output,
)
from hpcrunner.request.documents import METADATA, takes_documents
from hpcrunner.request.location import Location
from hpcrunner.request.plan import PlannedExperiment
from hpcrunner.request.resolve import USUAL, StoreRules
from hpcrunner.storage import database
from hpcrunner.storage.contract import StoreUnreachable

THREADS = 5  # of which one store may hold all but one
LONGEST = 600.0  # seconds for which a store that is away is waited for
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 20.0
Plan = Callable[[Experiment], PlannedExperiment | None]


@dataclass(frozen=True, slots=True)
class _Piece:
    """One thing to leave. ``unsaved`` is what is said where it cannot be, "" for nothing."""

    server: str
    write: Callable[[], object] = field(repr=False)
    unsaved: str = ""


@dataclass
class _Words:
    """Of one attempt. A thread writes what the loop reads: ``unsaved``, once it is done."""

    pieces: tuple[_Piece, ...]
    since: float
    pause: float = FIRST_PAUSE
    lines: tuple[str, ...] = ()
    unsaved: tuple[str, ...] | None = None
    forgotten: bool = False


class LastWords:
    """Called from the gateway's loop, and comes back at once.

    ``documented`` is the site's ``generate_metadata``; ``reserved`` as in accession_for; ``rules``
    are those by which the gateway contacts stores.
    """

    def __init__(
        self,
        *,
        documented: bool = True,
        reserved: Path | None = None,
        rules: StoreRules = USUAL,
        threads: int = THREADS,
        longest: float = LONGEST,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._documented = documented
        self._reserved = reserved
        self._rules = rules
        self._longest = longest
        self._steady = steady
        self._workers = Workers("last-words", threads)
        self._words: dict[Attempt, _Words] = {}
        self._away: dict[str, float] = {}  # by store: not before

    def said(
        self, failed: Sequence[tuple[Experiment, Failed]], plan: Plan
    ) -> list[tuple[Experiment, Failed]]:
        """Of all attempts whose preparation has failed, those whose words are out.

        What could not be saved is told in the text. What is not among ``failed`` is forgotten.
        """
        present = {(e.id, e.attempt) for e, _ in failed}
        for attempt in [a for a in self._words if a not in present]:
            self._words.pop(attempt).forgotten = True
        out: list[tuple[Experiment, Failed]] = []
        for e, failure in failed:
            words = self._words.get((e.id, e.attempt))
            if words is None:
                planned = plan(e)
                if planned is None:
                    continue  # set aside meanwhile
                planned = contacted_by(planned, self._rules)
                words = self._begun((e.id, e.attempt), planned, failure)
            if words.unsaved is not None:
                out.append((e, replace(failure, text="; ".join((failure.text, *words.unsaved)))))
        return out

    def close(self) -> None:
        """Let the threads end, each after what it has in hand; nobody waits for them."""
        self._workers.close()
        for words in self._words.values():
            words.forgotten = True

    def _begun(self, attempt: Attempt, planned: PlannedExperiment, failure: Failed) -> _Words:
        words = _Words(tuple(self._pieces(planned, failure)), self._steady())
        self._words[attempt] = words
        if words.pieces:
            self._workers.give(partial(self._say, words), words.pieces[0].server)
        else:
            words.unsaved = ()
        return words

    def _pieces(self, planned: PlannedExperiment, failure: Failed) -> list[_Piece]:
        pieces: list[_Piece] = []

        def add(location: Location, write: Callable[[], object], unsaved: str = "") -> None:
            pieces.append(_Piece(server_of(location), write, unsaved))

        output, metadata = output_of(planned), takes_documents(planned)
        if output is not None:
            packages = planned.python_packages
            add(output.location, partial(write_output, output, packages, failure), UNSAVED)
        if metadata is not None and self._documented:
            unsaved = f"artifact {METADATA} was not saved"
            name: list[Taken] = []  # the same one in every try

            def documents() -> None:
                if not name:
                    name.append(accession_for(planned, time.time(), self._reserved))
                write_documents(planned, failure, name[0].name)
                name[0].let_go()

            add(metadata.location, documents, unsaved)
        follows = planned.retries.follows(failure.reason, planned.expires_at, time.time())
        record = planned.record
        if follows and record is not None:
            said = database.Said(planned.id, planned.attempt, failure.reason, failure.text)
            change = database.waits_again(said)
            add(record, partial(database.change_record, record, planned.document, change))
        return pieces

    def _say(self, words: _Words) -> None:
        again: list[_Piece] = []
        over = self._steady() - words.since >= self._longest
        for piece in words.pieces:
            if words.forgotten:
                return
            trouble, passing = self._tried(piece)
            if passing and not over:
                again.append(piece)
            elif trouble and piece.unsaved:
                words.lines += (f"{piece.unsaved}: {trouble}",)
        words.pieces = tuple(again)
        if not again:
            crashpoint("preparation.said")
            words.unsaved = words.lines
            return
        self._workers.give_later(words.pause, partial(self._say, words), again[0].server)
        words.pause = min(2 * words.pause, LONGEST_PAUSE)

    def _tried(self, piece: _Piece) -> tuple[str, bool]:
        """Why it is not written, "" where it is; and whether that may pass."""
        if self._away.get(piece.server, 0.0) > self._steady():
            return f"{piece.server} cannot be reached", True
        try:
            piece.write()
        except StoreUnreachable as error:
            # One thread finds out, not all of them for each experiment.
            self._away[piece.server] = self._steady() + LONGEST_PAUSE
            return error.line(), True
        except HpcrunnerError as error:
            return error.line(), False
        except OSError as error:
            return str(error.strerror or error), False
        except Exception as error:  # whatever a store's client throws
            return one_line(f"{type(error).__name__}: {error}"), False
        self._away.pop(piece.server, None)
        return "", False
