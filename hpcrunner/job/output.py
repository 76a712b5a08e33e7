"""The payload's output: written as it comes to its file and to the job's log, its end kept."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hpcrunner.job.lines import Line

LAST_LINES = 20
LINE_WIDTH = 2000  # characters kept of one line
_LINE_BYTES = 4 * LINE_WIDTH  # UTF-8 needs at most four for one
_CHUNK = 1 << 16


class Tail:
    """The last lines of a byte stream in constant memory, whatever its lines' length.

    A carriage return starts its line anew, as on a terminal: of a progress bar the last state
    is kept. ``lines`` and ``bytes`` count all that came.
    """

    def __init__(self, keep: int = LAST_LINES) -> None:
        self._keep = keep
        self._whole: deque[bytes] = deque(maxlen=keep)
        self._line = Line(_LINE_BYTES)
        self.lines = 0
        self.bytes = 0

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes, cut anywhere."""
        self.bytes += len(chunk)
        breaks = chunk.count(b"\n")
        self.lines += breaks
        # Lines that later ones of the same chunk push out need not be looked at one by one.
        pieces = chunk.rsplit(b"\n", self._keep + 1)
        if breaks > self._keep:
            self._end_line()
            del pieces[0]
        *ended, rest = pieces
        for piece in ended:
            self._line.extend(piece)
            self._end_line()
        self._line.extend(rest)

    def _end_line(self) -> None:
        self._whole.append(bytes(self._line))
        self._line.clear()

    @property
    def at_line_start(self) -> bool:
        """Whether the stream so far ended with a line break, or is empty."""
        return self._line.empty

    def last(self) -> tuple[str, ...]:
        """The last lines as text, oldest first, each cut at LINE_WIDTH characters."""
        lines = [*self._whole, bytes(self._line)] if len(self._line) else list(self._whole)
        return tuple(line.decode("utf-8", "replace")[:LINE_WIDTH] for line in lines[-self._keep :])


class Tee:
    """Copies a pipe to the output file and to our own standard output, on a thread.

    The pipe is read to its end whatever happens to the copies: a full disk must not stop or
    kill the payload. The first failure of the output file is kept in ``failure``. ``watch`` is
    shown every chunk, until it raises; it must be quick.
    """

    def __init__(self, path: Path, watch: Callable[[bytes], None] | None = None) -> None:
        self.tail = Tail()
        self._watch = watch
        self.failure: OSError | None = None
        self._log: int | None = 1
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._file: int | None = os.open(path, flags, 0o600)
        except OSError as error:
            self.failure, self._file = error, None
        self._thread: threading.Thread | None = None

    def start(self, pipe: int) -> None:
        """Read ``pipe`` to its end on a thread of its own."""
        self._thread = threading.Thread(target=self._copy, args=(pipe,), daemon=True)
        self._thread.start()

    def write(self, chunk: bytes) -> None:
        """Take one chunk of output."""
        self.tail.feed(chunk)
        if self._watch is not None:
            try:
                self._watch(chunk)
            except Exception:
                self._watch = None
        if self._file is not None:
            try:
                _write_all(self._file, chunk)
            except OSError as error:
                self.failure, self._file = error, None
        if self._log is not None:
            try:
                _write_all(self._log, chunk)
            except OSError:
                self._log = None  # the log's own file system is full; the artifact goes on

    def note(self, text: str) -> None:
        """Add a line of ours to the output file: the artifact is all that a client gets to see."""
        if self._file is not None:
            with suppress(OSError):
                start = b"" if self.tail.at_line_start else b"\n"
                _write_all(self._file, start + text.encode("utf-8", "replace") + b"\n")

    def finish(self, timeout: float) -> None:
        """Wait for the end of the pipe; a process that still holds it is not waited for longer."""
        if self._thread is not None:
            self._thread.join(timeout)

    def _copy(self, pipe: int) -> None:
        while chunk := os.read(pipe, _CHUNK):
            self.write(chunk)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
