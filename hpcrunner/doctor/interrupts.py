"""Signals that wait until what must be done whole is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """An interrupt comes after the block, and only once, however often it was asked for.

    A submission that is broken off leaves a job that nobody knows of, a cancellation one that
    runs on. Off the main thread, which alone has signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    found = {number: signal.getsignal(number) for number in _ENDINGS}
    before = {n: handler for n, handler in found.items() if handler not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, lambda came, _: heard.append(came))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if heard:
            signal.raise_signal(heard[0])
