"""A stretch of a seekable file as a file of its own."""

from __future__ import annotations

import io
from typing import Any, BinaryIO


class Window(io.RawIOBase):
    """``size`` bytes of ``body`` from where it stands; closing it leaves ``body`` open.

    Store clients rewind to try again, ask for the size by seeking, and close what they are
    given; none of that may reach the caller's file. Raises ValueError where ``body`` is shorter.
    """

    def __init__(self, body: BinaryIO, size: int) -> None:
        super().__init__()
        self._body = body
        self._start = body.tell()
        there = body.seek(0, io.SEEK_END) - self._start
        if there < size:
            raise ValueError(f"{size} bytes announced, {there} there")
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position, from the window's start."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move within the window."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        """Fill part of ``buffer``; 0 at the end."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to ``size`` bytes; all that is left for -1."""
        left = max(0, self._size - self._at)
        wanted = left if size is None or size < 0 else min(size, left)
        if not wanted:
            return b""
        self._body.seek(self._start + self._at)
        data = self._body.read(wanted)
        self._at += len(data)
        return data
