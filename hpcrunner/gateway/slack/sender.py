"""Sends notes from a thread of its own: the gateway never waits for Slack.

What waits is bounded; the oldest is dropped first. Notes for one room that wait together go as
one message. After an error a room is left in peace for a minute, and what comes for it meanwhile
is dropped. The next message that gets out says how many were.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.happenings import Happening
from hpcrunner.gateway.reader import Reader
from hpcrunner.gateway.slack.notes import (
    MOST_ATTACHMENTS,
    Note,
    attachment,
    clean,
    message,
    note_of,
)
from hpcrunner.gateway.spool import Spool
from hpcrunner.gateway.view import log_path
from hpcrunner.notices import Notices
from hpcrunner.request.model import Request
from hpcrunner.request.parse import parse_message
from hpcrunner.request.redact import redact_text

log = logging.getLogger(__name__)

_MOST_WAITING = 500
_LONGEST_TAIL = 64 * 1024  # read of an output, so that a secret is seen whole before it is cut
_LONGEST_MESSAGE = 30_000  # bytes of attachments, about what Slack takes
_TIMEOUT = 10.0
_MUTE = 60.0
_PACE = 1.0  # seconds between two messages, as Slack asks for
_SHOWN_ANSWER = 200


@dataclass(frozen=True, slots=True)
class _Waiting:
    note: Note
    at: float


class Slack:
    """Listens to what happens, and has it told; to be closed at the end.

    ``room`` is where a note goes whose request names no ``runner.slack_destination``. ``mute``
    and ``pace`` are seconds, ``most`` is how many notes may wait; ``clock`` is a steady clock.
    """

    def __init__(
        self,
        hook: str,
        room: str,
        spool: Spool,
        *,
        pace: float = _PACE,
        mute: float = _MUTE,
        most: int = _MOST_WAITING,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hook = hook
        self._room = room
        self._spool = spool
        self._pace = pace
        self._mute = mute
        self._most = most
        self._clock = clock
        self._host = socket.gethostname()
        self._waiting: deque[_Waiting] = deque()
        self._lost = 0
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._dropped: Counter[str] = Counter()
        self._muted: dict[str, float] = {}
        self._notices = Notices(log)
        self._thread = threading.Thread(target=self._run, name="slack", daemon=True)
        self._thread.start()

    def __call__(self, happening: Happening) -> None:
        """Take it, if it is worth a note; this is what is told."""
        note = note_of(happening)
        if note is None:
            return
        with self._changed:
            if len(self._waiting) >= self._most:
                self._waiting.popleft()
                self._lost += 1
            self._waiting.append(_Waiting(note, time.time()))
            self._changed.notify()

    def close(self, patience: float = 5.0) -> None:
        """Send what waits, as far as it goes out within that many seconds."""
        self._closing.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(patience)

    def _run(self) -> None:
        while taken := self._take():
            try:
                self._tell(taken)
            except Exception:
                log.exception("a fault while sending notes")

    def _take(self) -> list[_Waiting]:
        """What waits, as much as one message holds; empty at the end."""
        with self._changed:
            while not self._waiting and not self._closing.is_set():
                self._changed.wait()
            count = min(len(self._waiting), MOST_ATTACHMENTS)
            return [self._waiting.popleft() for _ in range(count)]

    def _tell(self, taken: Sequence[_Waiting]) -> None:
        with self._changed:
            lost, self._lost = self._lost, 0
        by_room = self._by_room(taken)
        self._dropped[next(iter(by_room))] += lost
        for room, waiting in by_room.items():
            for notes in _messages([self._attachment(w) for w in waiting]):
                if self._is_muted(room) or not self._sent(room, notes):
                    self._dropped[room] += len(notes)

    def _by_room(self, taken: Sequence[_Waiting]) -> dict[str, list[_Waiting]]:
        found: dict[str, list[_Waiting]] = {}
        reader: Reader | None = None
        with suppress(HpcrunnerError):
            reader = Reader(self._spool.journal)
        for waiting in taken:
            room = _room_of(reader, waiting.note.experiment.id) or self._room
            found.setdefault(room, []).append(waiting)
        if reader is not None:
            reader.close()
        return found

    def _attachment(self, waiting: _Waiting) -> dict[str, Any]:
        output = ""
        if waiting.note.with_output:
            path = log_path(self._spool, waiting.note.experiment)
            output = clean(_tail(path)) if path else ""
        return attachment(waiting.note, output, self._host, waiting.at)

    def _is_muted(self, room: str) -> bool:
        now = self._clock()
        self._muted = {r: until for r, until in self._muted.items() if until > now}
        return room in self._muted

    def _sent(self, room: str, notes: Sequence[dict[str, Any]]) -> bool:
        body = json.dumps(message(notes, room, self._dropped[room])).encode()
        name = f"room {room}" if room else "the hook's own room"
        try:
            _post(self._hook, body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._muted[room] = self._clock() + self._mute
            text = f"Slack: no notes to {name} for {self._mute:.0f} s: {_words(error)}"
            self._notices.warn(room, redact_text(text.replace(self._hook, "****")))
            return False
        self._notices.over(room, f"Slack: notes to {name} again")
        self._dropped.pop(room, None)
        self._closing.wait(self._pace)
        return True


def _messages(attachments: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Attachments in messages that are not too long."""
    notes: list[dict[str, Any]] = []
    length = 0
    for found in attachments:
        size = len(json.dumps(found))
        if notes and length + size > _LONGEST_MESSAGE:
            yield notes
            notes, length = [], 0
        notes.append(found)
        length += size
    if notes:
        yield notes


def _room_of(reader: Reader | None, experiment: str) -> str:
    """Where the request wants its notes; "" where it does not say or cannot be read any more."""
    if reader is None:
        return ""
    try:
        request = parse_message(reader.message(experiment))
    except HpcrunnerError:
        return ""
    return request.slack_destination if isinstance(request, Request) else ""


def _tail(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - _LONGEST_TAIL))
            return file.read(_LONGEST_TAIL)
    except OSError:
        return b""


def _post(url: str, body: bytes) -> None:
    request = urllib.request.Request(  # noqa: S310 - the option lets http and https pass only
        url, data=body, headers={"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310
        answer.read(_SHOWN_ANSWER)


def _words(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        said = b""
        with suppress(OSError):
            said = error.read(_SHOWN_ANSWER)
        text = "".join(c for c in said.decode("utf-8", "replace") if c.isprintable())
        return f"HTTP {error.code} {text}".strip()
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__
