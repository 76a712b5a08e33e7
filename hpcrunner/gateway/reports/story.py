"""What there is to tell of an experiment: its row and its files, as reports in order. Pure.

Of each attempt: Started and ``start`` when its job has claimed it, its output line by line, its
metadata as they come, Stopping when it is told to end, and in the end ``stop`` and then Success
or Failed. Prestart says that another attempt waits. Every report comes with the position that
holds once it is published, so that telling can be broken off after any and go on from there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hpcrunner.gateway.experiment import EndedAttempt, Experiment, State
from hpcrunner.gateway.reports.lines import lines_of
from hpcrunner.gateway.reports.position import Position, Stage
from hpcrunner.gateway.reports.report import LogEntry, Progress, Report, Severity, TaskState
from hpcrunner.request.accession import accession
from hpcrunner.request.keyblock import MASK, KeyLines
from hpcrunner.request.redact import redact_document, redact_text

NO_CODE = -1  # of an attempt that failed without an exit code of its own
_WIDEST = 4096  # characters of an error's text


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a file holds from a position on; ``whole``: up to its present end."""

    data: bytes = b""
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of an experiment now: its row, its former attempts, and what its present
    files hold from the position on. ``host`` is the gateway's, ``now`` its clock's epoch seconds.
    """

    experiment: Experiment
    former: Sequence[EndedAttempt]
    host: str
    now: float
    events: Chunk = Chunk()
    log: Chunk = Chunk()


@dataclass(frozen=True, slots=True)
class Step:
    """A report, or None where there is nothing to say, and the position behind it."""

    report: Report | None
    after: Position


@dataclass(frozen=True, slots=True)
class _Ending:
    state: State
    text: str
    exit_code: int | None
    last: bool  # no other attempt follows


def files_of(
    position: Position, experiment: Experiment, former: Sequence[EndedAttempt]
) -> tuple[str, int] | None:
    """Batch and task whose files are to be read now; None where they cannot hold anything new."""
    if position.stage in (Stage.NEW, Stage.STOPPED, Stage.DONE):
        return None
    for attempt in former:
        if attempt.attempt == position.attempt:
            return (attempt.batch, attempt.task) if attempt.batch else None
    if not experiment.batch:
        return None
    idle = experiment.state in (State.SUBMITTING, State.PENDING)
    if position.stage is Stage.WAITING and idle:
        return None
    return experiment.batch, experiment.task


def story(facts: Facts, position: Position) -> Iterator[Step]:
    """What is to be told from ``position`` on, as far as it is known now."""
    if position.stage is Stage.DONE:
        return
    e = facts.experiment
    if position.stage is Stage.NEW:
        first = min((a.attempt for a in facts.former), default=e.attempt)
        position = Position(attempt=first, stage=Stage.WAITING)
        entry = LogEntry(Severity.DEBUG, "scanning queue", {"queue_name": e.queue})
        yield Step(Report(e.received_at, facts.host, entry), position)
        return
    for step in _events(facts, position):
        yield step
        position = step.after
    if position.stage is Stage.STARTED:
        for step in _lines(facts, position):
            yield step
            position = step.after
    ending = _ending_of(facts, position.attempt)
    if ending is not None and facts.events.whole and facts.log.whole:
        yield from _end(facts, position, ending)


def _events(facts: Facts, position: Position) -> Iterator[Step]:
    """Started, Stopping and metadata, as the job side noted them; a torn line is waited for."""
    *lines, rest = facts.events.data.split(b"\n")
    if not lines and not facts.events.whole:
        lines = [rest[:-1]]  # longer than any of ours: left out, piece by piece
    for line in lines:
        before = position
        position = replace(position, events=position.events + len(line) + 1)
        event = _event(line)
        at = _time(event.get("time"), facts.now)
        name = event.get("event")
        if name == "claimed":
            host = _word(event.get("host")) or facts.host
            unique = _word(event.get("accession")) or accession(host, at)
            position = replace(position, stage=Stage.CLAIMED, host=host, unique=unique)
            continue
        if position.stage is Stage.CLAIMED:
            unique = _word(event.get("accession")) or position.unique
            position = replace(position, stage=Stage.STARTED, unique=unique)
            yield from _start(facts, before, position, at)
        if position.stage is Stage.STARTED and name == "stopping":
            yield Step(_said(facts, position, Progress(TaskState.STOPPING), at), position)
        elif position.stage is Stage.STARTED and name == "metadata":
            document = _document(event.get("json"))
            if document is not None:
                progress = Progress(TaskState.STARTED, json=document)
                yield Step(_said(facts, position, progress, at), position)
    over = _ending_of(facts, position.attempt) is not None and facts.events.whole
    if position.stage is Stage.CLAIMED and over:
        before, position = position, replace(position, stage=Stage.STARTED)
        yield from _start(facts, before, position, facts.now)
    yield Step(None, position)


def _start(facts: Facts, before: Position, after: Position, at: float) -> Iterator[Step]:
    # The position moves with the second of the two: a crash between repeats the first.
    yield Step(_said(facts, after, Progress(TaskState.STARTED), at), before)
    yield Step(_said(facts, after, LogEntry(Severity.INFO, "start"), at), after)


def _lines(facts: Facts, position: Position) -> Iterator[Step]:
    over = _ending_of(facts, position.attempt) is not None
    ended = over and facts.log.whole and facts.events.whole
    lines, offset, cut = lines_of(facts.log.data, position.log, cut=position.cut, ended=ended)
    keys = KeyLines()
    told = position
    held: tuple[str, Position] | None = None  # a line, and what it hides: a key behind it
    for line in lines:
        shown = keys.shown(line.text)
        after = replace(position, log=line.offset, cut=line.cut)
        if shown is None:
            held = (held[0] if held else MASK, after)
            continue
        if held is not None:
            yield _logged(facts, *held)
            told = held[1]
        held = (shown, after)
    # A key that has not ended yet is read again from its beginning; but nothing waits for ever.
    more = keys.open and not ended and not cut and (facts.log.whole or told != position)
    if held is not None and not more:
        yield _logged(facts, *held)
    yield Step(None, told if more else replace(position, log=offset, cut=cut))


def _logged(facts: Facts, text: str, after: Position) -> Step:
    return Step(_said(facts, after, LogEntry(Severity.INFO, redact_text(text)), facts.now), after)


def _end(facts: Facts, position: Position, ending: _Ending) -> Iterator[Step]:
    won = ending.state is State.SUCCEEDED
    text = redact_text(ending.text)[:_WIDEST]
    if position.stage is Stage.STARTED:
        fields = {"success": "True"} if won else {"success": "False", "error": text}
        position = replace(position, stage=Stage.STOPPED)
        stop = LogEntry(Severity.INFO, "stop", fields)
        yield Step(_said(facts, position, stop, facts.now), position)
    if won:
        last = Progress(TaskState.SUCCESS)
    else:
        last = Progress(TaskState.FAILED, error=(text, ending.exit_code or NO_CODE))
    if ending.last:
        done = replace(position, stage=Stage.DONE)
        yield Step(_said(facts, position, last, facts.now), done)
        return
    following = Position(attempt=position.attempt + 1, stage=Stage.WAITING)
    ended = replace(position, stage=Stage.STOPPED)
    yield Step(_said(facts, position, last, facts.now), ended)
    yield Step(_said(facts, following, Progress(TaskState.PRESTART), facts.now), following)


def _said(facts: Facts, position: Position, payload: LogEntry | Progress, at: float) -> Report:
    """A report of the attempt; before one has started, the gateway's host stands for it."""
    e = facts.experiment
    host = position.host or facts.host
    unique = position.unique or accession(facts.host, e.received_at)
    return Report(at, host, payload, experiment_id=e.key, unique_id=unique)


def _ending_of(facts: Facts, attempt: int) -> _Ending | None:
    for a in facts.former:
        if a.attempt == attempt:
            return _Ending(a.state, a.text, a.exit_code, last=False)
    e = facts.experiment
    return _Ending(e.state, e.text, e.exit_code, last=True) if e.state.final else None


def _event(line: bytes) -> Mapping[str, Any]:
    """An event, or an empty one for what is none: a run that was killed leaves half a line."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}


def _document(text: object) -> str | None:
    """A metadata document without its credentials; None where it is none."""
    if not isinstance(text, str):
        return None
    try:
        return json.dumps(_masked(json.loads(text)), ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        return None


def _masked(value: Any) -> Any:
    """Texts only: a number under a secret's name is a metric (``tokens``), no credential."""
    if isinstance(value, dict):
        return {
            name: redact_document({name: inner})[name] if isinstance(inner, str) else _masked(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_masked(inner) for inner in value]
    return redact_document(value) if isinstance(value, str) else value


def _time(value: object, now: float) -> float:
    """A node's time, where it can be one."""
    good = isinstance(value, (int, float)) and 0.0 < value < 2.0**40
    return float(value) if good and isinstance(value, (int, float)) else now


def _word(value: object) -> str:
    return value[:256] if isinstance(value, str) else ""
