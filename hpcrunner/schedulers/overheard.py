"""What a library prints while it is called: heard without a thread, and never in its way."""

from __future__ import annotations

import os
import re

_KEPT = 16 * 1024  # bytes; of more the end is kept
_WIDEST = 300  # characters of it in one line for people
_PIECE = 65536
# A program's name and a kind in front of the words ("python: error: …"), or the letter, thread and
# time of a DRMAA library's own log ("E #1f03 [     0.17]  * …").
_TAG = re.compile(
    r"(?:[\w./-]+: )?(?:error|fatal|warning): +|[A-Z] #\w+ \[ *\d+\.\d+\] +(?:\* +|[-<]+>? +)?"
)


class Overheard:
    """The last of what comes through a pipe; ``descriptor`` is its reading end, now ours."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._heard = b""
        self.open = True

    def fileno(self) -> int:
        """For select and poll."""
        return self._descriptor

    def listen(self) -> None:
        """Take what is there; ``open`` is False once the other end is closed."""
        while self.open:
            try:
                piece = os.read(self._descriptor, _PIECE)
            except BlockingIOError:
                return
            self._heard = (self._heard + piece)[-_KEPT:]
            self.open = bool(piece)

    def taken(self) -> str:
        """What was heard since this was last asked."""
        self.listen()
        text, self._heard = self._heard.decode("utf-8", "replace"), b""
        return text.strip()

    def close(self) -> None:
        """Hear no more."""
        self.open = False
        os.close(self._descriptor)


def with_printed(words: str, printed: str) -> str:
    """``words``, and behind them what else was printed: each line once, without tags in front.

    One line, whose end is kept where there is much.
    """
    told = [words] if words else []
    for line in printed.splitlines():
        plain = _TAG.sub("", " ".join(line.split()), count=1) if line.strip() else ""
        if plain and not any(plain in known for known in told):
            told.append(plain)
    more = "; ".join(told[bool(words) :])
    more = more if len(more) <= _WIDEST else "…" + more[1 - _WIDEST :]
    return "; ".join(part for part in (words, more) if part)
