"""What the payload printed, as the log of the metadata: its beginning and its end."""

from __future__ import annotations

import re
import threading
from collections import deque
from typing import Any

from hpcrunner.request.documents import timestamp
from hpcrunner.request.keyblock import HINT, KeyLines
from hpcrunner.request.redact import redact_text

FIRST, LAST = 500, 500  # entries that are kept; what was between them is counted
WIDTH = 1000  # characters kept of a line
_RAW = 4 * WIDTH  # bytes kept of it: a password in its first part is known as one by what follows
_KEY = HINT.encode()
SHORTEST = 3  # shorter lines say nothing
# A line that begins and ends as an object or an array, alone on its line or after a progress bar.
DIRECTIVE = re.compile(rb"(?:^|\r)[ \t]*(\{[^\r\n]*\}|\[[^\r\n]*\])[ \t\r]*$", re.MULTILINE)

_Entry = tuple[int, "bytes | dict[str, Any]"]


class OutputLog:
    """Lines with the time (ns since the epoch) they came, in constant memory.

    The lines that look like directives are not taken by ``extend``, and private keys are masked
    there, since they run over lines. Safe from any thread.
    """

    def __init__(self) -> None:
        self._first: list[_Entry] = []
        self._last: deque[_Entry] = deque(maxlen=LAST)
        self._left_out = 0
        self._keys = KeyLines()
        self._lock = threading.Lock()

    def add(self, at: int, line: bytes | dict[str, Any]) -> None:
        """Take one line, or an entry that somebody made."""
        with self._lock:
            self._keep(at, line)

    def extend(self, at: int, lines: bytes) -> None:
        """Take whole lines, without the last one's break. Costs little for those between."""
        with self._lock:
            if self._keys.open or _KEY in lines:
                lines = self._without_keys(lines)
            start = 0
            while len(self._first) < FIRST and start <= len(lines):
                end = lines.find(b"\n", start)
                end = len(lines) if end < 0 else end
                self._take(at, lines[start:end])
                start = end + 1
            if start > len(lines):
                return
            rest = lines[start:] if start else lines
            last = rest.rsplit(b"\n", LAST)[-LAST:]
            self._left_out += rest.count(b"\n") + 1 - len(last)
            for line in last:
                self._take(at, line)

    def entries(self) -> list[dict[str, Any]]:
        """The log as JSON values ``{"ts", "msg"}``, without credentials, oldest first."""
        with self._lock:
            first, last, left_out = list(self._first), list(self._last), self._left_out
        if left_out:
            at = last[0][0] if last else first[-1][0]
            first.append((at, {"ts": timestamp(at), "msg": f"[{left_out} lines are left out]"}))
        both = [*first, *last]
        both.sort(key=lambda entry: entry[0])  # what came late from another thread
        return [_shown(at, line) for at, line in both]

    def _without_keys(self, lines: bytes) -> bytes:
        texts = lines.decode("utf-8", "replace").split("\n")
        shown = (self._keys.shown(text) for text in texts)
        return "\n".join(text for text in shown if text is not None).encode()

    def _take(self, at: int, line: bytes) -> None:
        line = line.rstrip(b"\r").rpartition(b"\r")[2].strip()
        if len(line) >= SHORTEST and not DIRECTIVE.fullmatch(line):
            self._keep(at, line)

    def _keep(self, at: int, line: bytes | dict[str, Any]) -> None:
        kept = line[:_RAW] if isinstance(line, bytes) else line
        if len(self._first) < FIRST:
            self._first.append((at, kept))
            return
        self._left_out += len(self._last) == LAST
        self._last.append((at, kept))


def _shown(at: int, line: bytes | dict[str, Any]) -> dict[str, Any]:
    if isinstance(line, dict):
        return {n: redact_text(v) if isinstance(v, str) else v for n, v in line.items()}
    text = redact_text(line.decode("utf-8", "replace"))
    return {"ts": timestamp(at), "msg": text if len(text) <= WIDTH else text[:WIDTH] + " …"}
