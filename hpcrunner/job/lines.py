"""The line that a byte stream is in the middle of, in bounded memory."""

from __future__ import annotations


class Line:
    """The first ``limit`` bytes of a line that has not ended yet.

    A carriage return starts it anew, as on a terminal: of a progress bar the last state is kept.
    ``cut`` says that the line is longer.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = bytearray()
        self._returned = False  # the line so far ended with a carriage return
        self.cut = False

    def extend(self, piece: bytes) -> None:
        """The line goes on with ``piece``, in which there is no line break."""
        if not piece:
            return
        stripped = piece.rstrip(b"\r")
        if not stripped:  # the same return once more: the line stands until something follows
            self._returned = True
            return
        if self._returned:
            self._restart()
        self._returned = len(stripped) < len(piece)
        _, returned, last = stripped.rpartition(b"\r")
        if returned:
            self._restart()
        room = self._limit - len(self._bytes)
        self.cut = self.cut or len(last) > room
        self._bytes += last[:room]

    def clear(self) -> None:
        """A new line begins."""
        self._restart()
        self._returned = False

    @property
    def empty(self) -> bool:
        """Whether the stream is at the start of a line."""
        return not self._bytes and not self._returned

    def __bytes__(self) -> bytes:
        return bytes(self._bytes)

    def __len__(self) -> int:
        return len(self._bytes)

    def _restart(self) -> None:
        self._bytes.clear()
        self.cut = False
