"""What the job side tells while it works: events for the gateway, lines for people."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hpcrunner.errors import one_line
from hpcrunner.request.documents import PREFIX


@dataclass(slots=True)
class Staged:
    """What went between stores and node so far, by the events ``fetched`` and ``saved``.

    Their field ``size`` is bytes; ``cache`` is ``hit`` or ``miss`` where a cache was asked. What
    a cache had did not come from a store.
    """

    fetched_bytes: int = 0
    saved_bytes: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, event: str, fields: Mapping[str, object]) -> None:
        """Add what this event says. Safe from any thread."""
        size = fields.get("size")
        if event not in ("fetched", "saved") or not isinstance(size, int):
            return
        with self._lock:
            if event == "saved":
                self.saved_bytes += size
            elif fields.get("cache") == "hit":
                self.cache_hits += 1
            else:
                self.fetched_bytes += size
                self.cache_misses += fields.get("cache") == "miss"


class Events:
    """The attempt's event file (one JSON object a line, append only) and its printed lines.

    Telling must never end an attempt: a file system that refuses an event is ignored.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.staged = Staged()
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._fd: int | None = os.open(path, flags, 0o600)
            _end_torn_line(self._fd)
        except OSError as error:
            self._fd = None
            say(f"no events will be written: {path}: {error.strerror}")

    def note(self, event: str, **fields: object) -> None:
        """Append an event; ``time`` is epoch seconds. Safe from any thread: one write a line."""
        self.staged.count(event, fields)
        if self._fd is None:
            return
        line = json.dumps({"time": round(self._clock(), 3), "event": event, **fields})
        with suppress(OSError):
            os.write(self._fd, line.encode() + b"\n")

    def tell(self, event: str, text: str, **fields: object) -> None:
        """Note an event with its text, and print the text."""
        self.note(event, text=one_line(text), **fields)
        say(text)


def _end_torn_line(fd: int) -> None:
    """A run that was killed while it wrote has left half a line; ours must not be glued to it."""
    length = os.fstat(fd).st_size
    if length and os.pread(fd, 1, length - 1) != b"\n":
        os.write(fd, b"\n")


def say(text: str) -> None:
    """Print one line for people; it goes straight to the descriptor, in step with the payload."""
    with suppress(OSError):
        os.write(1, (PREFIX + one_line(text) + "\n").encode("utf-8", "replace"))


def size(count: int) -> str:
    """Bytes as people read them."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
