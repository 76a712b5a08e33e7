"""A stream that goes on where a broken connection left off.

Bytes go straight from the store into the unpacker, so a connection that breaks after 40 GB must
not cost the 40 GB: the rest is asked for by range (RFC 9110, section 14), provided that the
object is still the same one.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any, Protocol

from hpcrunner.storage.contract import StoreUnreachable

MOST_BREAKS = 6  # in a row, without a byte between them
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0

Pause = Callable[[float], object]


class Body(Protocol):
    """What a store's client gives to read from."""

    def read(self, amount: int, /) -> bytes:
        """Up to ``amount`` bytes; empty at the end."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class ResumedStream(io.RawIOBase):
    """Reads ``size`` bytes (-1: unknown, read to the end) of one object.

    ``reopen(offset)`` returns a body that starts there, and raises a StorageError where that
    cannot be had, StoreUnreachable where trying again may help. ``broken`` are the errors of a
    body that mean a lost connection; an end before ``size`` means one, too. Reading raises
    StoreUnreachable once MOST_BREAKS tries in a row gave nothing.
    """

    def __init__(
        self,
        body: Body,
        size: int,
        reopen: Callable[[int], Body],
        *,
        where: str,
        broken: tuple[type[BaseException], ...],
        pause: Pause = time.sleep,
    ) -> None:
        super().__init__()
        self._body: Body | None = body
        self._size = size
        self._reopen = reopen
        self._where = where
        self._broken = broken
        self._pause = pause
        self._at = 0

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill part of ``buffer``; 0 at the end."""
        data = self._some(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to ``size`` bytes, in one read of the connection; all that is left for -1."""
        if size is None or size < 0:
            return self.readall()
        return self._some(size)

    def close(self) -> None:
        """Let go of the connection."""
        if not self.closed:
            self._let_go()
        super().close()

    def _some(self, wanted: int) -> bytes:
        if self._size >= 0:
            wanted = min(wanted, self._size - self._at)
        if wanted <= 0:
            return b""
        breaks = 0
        while True:
            try:
                if self._body is None:
                    self._body = self._reopen(self._at)
                data = self._body.read(wanted)
                if data or self._size < 0:
                    self._at += len(data)
                    return data
                why = "the connection ended"
            except StoreUnreachable as error:
                why = error.what
            except self._broken as error:
                why = f"the connection broke ({type(error).__name__})"
            self._let_go()
            breaks += 1
            if breaks >= MOST_BREAKS:
                of = f" of {self._size}" if self._size >= 0 else ""
                raise StoreUnreachable(
                    f"{why} after {self._at}{of} bytes, {breaks} times in a row",
                    where=self._where,
                    remedy="is the store up, and does this host reach it?",
                )
            self._pause(min(FIRST_PAUSE * 2 ** (breaks - 1), LONGEST_PAUSE))

    def _let_go(self) -> None:
        if self._body is not None:
            body, self._body = self._body, None
            body.close()
