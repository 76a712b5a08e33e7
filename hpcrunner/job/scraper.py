"""The payload's output read as metadata while it is printed.

A line that is a JSON object or an array of objects is a directive (see jsoneditor.py); every other
one is an entry of the log. Nothing here slows the payload: its pipe's thread only looks for lines
that may be directives and lays them down for another thread, which takes a small part of one CPU.
Where more come than that thread can fold, the oldest that wait are left out, and counted.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hpcrunner.job.jsoneditor import (
    MAX_LINE,
    DirectiveRefused,
    Editor,
    NoDirective,
    copy_of,
    merged,
)
from hpcrunner.job.lines import Line
from hpcrunner.job.outputlog import DIRECTIVE, SHORTEST, OutputLog
from hpcrunner.request.documents import PROTECTED, Document, as_text

WAITING_LINES, WAITING_BYTES = 20_000, 4 << 20
PERIOD = 10.0  # seconds after which the document is looked at again though nothing came
_PAUSES = 4.0  # seconds of rest after each second of work
_SLICE = 0.05
_LOG = "log"
_LARGEST_ENTRY = 4000  # characters of a log entry that a directive makes
_REASONS = 10  # refusals that the log tells of


class Scraper:
    """One attempt's document. ``changed`` is called now and then on the scraper's own thread.

    ``logs`` False: lines that are no directives are not kept. Safe from any thread.
    """

    def __init__(
        self,
        *,
        logs: bool = True,
        changed: Callable[[], None] = lambda: None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._logs = logs
        self._changed = changed
        self._clock = clock
        self._log = OutputLog()
        self._line = Line(MAX_LINE)
        self._lock = threading.Lock()  # of what the pipe's thread touches
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._waiting_bytes = 0
        self._editing = threading.Lock()
        self._editor = Editor({PROTECTED: {_LOG: []}})
        self._ours: Document = {}
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self.refused = 0  # directives that could not be folded
        self.overrun = 0  # directives that came faster than they could be folded
        self.first_refusal = ""

    def start(self) -> None:
        """Begin to fold what comes."""
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of output, cut anywhere. Quick, and raises nothing."""
        with self._lock:
            first, ended, rest = chunk.partition(b"\n")
            self._line.extend(first)
            if not ended:
                return
            self._end_line()
            whole, ended, rest = rest.rpartition(b"\n")
            if ended:
                self._take(whole)
            self._line.extend(rest)
            if self._waiting:
                self._wake.set()

    def say(self, text: str) -> None:
        """An entry of ours in the log."""
        self._log.add(self._clock(), text.encode("utf-8", "replace"))

    def tell(self, entries: Document) -> None:
        """Members of ours below ``studioml``: what a payload says there gives way to them."""
        with self._editing:
            self._ours = merged(self._ours, entries)

    def document(self) -> Document:
        """What is known by now, without the log; the caller's own copy."""
        with self._editing:
            document = copy_of(self._editor.document)
            ours = copy_of(self._ours)
        theirs = document.get(PROTECTED)
        both = merged(theirs, ours) if isinstance(theirs, dict) else ours
        both.pop(_LOG, None)
        return {**document, PROTECTED: both}

    def log(self) -> list[dict[str, Any]]:
        """The log's entries."""
        return self._log.entries()

    def finish(self, seconds: float) -> None:
        """No more output comes: fold what waits, for so long at most."""
        until = time.monotonic() + seconds
        with self._lock:
            self._end_line()
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(seconds)
        self._fold(until)
        with self._lock:
            self.overrun += len(self._waiting)
            self._waiting.clear()

    def _end_line(self) -> None:
        if self._line.cut:
            if self._logs:
                self._log.add(self._clock(), bytes(self._line))
        else:
            self._take(bytes(self._line))
        self._line.clear()

    def _take(self, lines: bytes) -> None:
        now = self._clock()
        # Short lines of plain text would cost the search more than all else does.
        found = DIRECTIVE.findall(lines) if b"}" in lines or b"]" in lines else ()
        for line in found:
            if SHORTEST <= len(line) <= MAX_LINE:
                self._waiting.append((now, line))
                self._waiting_bytes += len(line)
        while len(self._waiting) > WAITING_LINES or self._waiting_bytes > WAITING_BYTES:
            self._waiting_bytes -= len(self._waiting.popleft()[1])
            self.overrun += 1
        if self._logs:
            self._log.extend(now, lines)

    def _work(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(PERIOD)
            self._wake.clear()
            began = time.thread_time()
            self._fold(time.monotonic() + _SLICE)
            with suppress(Exception):
                self._changed()
            self._closing.wait(_PAUSES * (time.thread_time() - began))
            if self._waiting:
                self._wake.set()

    def _fold(self, until: float) -> None:
        while time.monotonic() < until:
            with self._lock:
                if not self._waiting:
                    return
                at, line = self._waiting.popleft()
                self._waiting_bytes -= len(line)
            try:
                self._apply(line.decode("utf-8", "replace"))
            except NoDirective:
                if self._logs:
                    self._log.add(at, line)
            except DirectiveRefused as refusal:
                self._refuse(str(refusal))
            except Exception as fault:  # ours: it must cost no more than the line
                self._refuse(f"{type(fault).__name__}: {fault}")

    def _apply(self, directive: str) -> None:
        with self._editing:
            self._editor.apply(directive)
            entries = self._entries_made()
        for entry in entries:
            self._log.add(self._clock(), entry)

    def _entries_made(self) -> list[Document]:
        """Take the log entries out of the document that a directive has put there."""
        ours = self._editor.document.get(PROTECTED)
        if not isinstance(ours, dict) or not ours.get(_LOG):
            return []
        made = ours[_LOG]
        self._editor = Editor({**self._editor.document, PROTECTED: {**ours, _LOG: []}})
        if not isinstance(made, list):
            return []
        return [e for e in made if isinstance(e, dict) and len(as_text(e)) <= _LARGEST_ENTRY]

    def _refuse(self, why: str) -> None:
        self.refused += 1
        self.first_refusal = self.first_refusal or why
        if self.refused <= _REASONS:
            self.say(f"hpcrunner: a directive was not used: {why}")
