"""Decompressing xz and lzma with a bound on memory, which Python's LZMAFile has not."""

from __future__ import annotations

import io
import lzma
from typing import Any, BinaryIO

MOST_MEMORY = 512 << 20  # xz -9 needs 65 MiB; a hostile header may ask for 4 GiB
_INPUT = 128 << 10


class XzStream(io.RawIOBase):
    """The decompressed content of ``source``, streams in a row included.

    Raises lzma.LZMAError for damage or too great a dictionary, EOFError where it is cut off.
    """

    def __init__(self, source: BinaryIO) -> None:
        super().__init__()
        self._source = source
        self._decompressor = _new()
        self._input = b""

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill part of ``buffer``; 0 at the end."""
        while True:
            if self._decompressor.eof:
                self._input = self._after_stream()
                if not self._input:
                    return 0
                self._decompressor = _new()
            elif not self._input and self._decompressor.needs_input:
                self._input = self._source.read(_INPUT)
                if not self._input:
                    raise EOFError
            data = self._decompressor.decompress(self._input, len(buffer))
            self._input = b""
            if data:
                buffer[: len(data)] = data
                return len(data)

    def _after_stream(self) -> bytes:
        """The beginning of the next stream. Zeros may pad one (The .xz File Format, 2.2)."""
        data = self._decompressor.unused_data
        while not (rest := data.lstrip(b"\0")):
            data = self._source.read(_INPUT)
            if not data:
                return b""
        return rest


def _new() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(format=lzma.FORMAT_AUTO, memlimit=MOST_MEMORY)
