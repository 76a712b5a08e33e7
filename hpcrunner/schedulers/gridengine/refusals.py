"""What Grid Engine's texts say about a submission that failed: never, not now, or nobody knows.

The master's own answers come as DeniedByDrmException; what the library met on its way to it as
DrmCommunicationException.
"""

from __future__ import annotations

import re

from hpcrunner.schedulers.answers import Answer

# First match wins.
_DENIED: tuple[tuple[str, Answer], ...] = (
    (r"receive timeout|failed receiving gdi|got read error", Answer.UNCERTAIN),
    (r"too many|[Oo]nly \d+ jobs|limit .*(reached|exceeded)|would exceed", Answer.NOT_NOW),
    (r"more than \d+ tasks", Answer.NEVER),
    (r"unable to (send|contact)|qmaster is (going|shutting)", Answer.NOT_NOW),
    # No queue could hold it even if it were empty; or the one that could is out of order.
    (r"no suitable queues", Answer.DOUBTFUL),
)
_COMMUNICATION: tuple[tuple[str, Answer], ...] = (
    # Nothing went out.
    (r"unable to send message|unable to contact qmaster|Connection refused", Answer.NOT_NOW),
    (r"can't resolve host ?name|got select error", Answer.NOT_NOW),
)


def answer_of(kind: str, words: str) -> Answer:
    """What an exception's class and text mean; ``more than N tasks`` is a limit of one job."""
    if kind == "DeniedByDrmException":
        return _first(_DENIED, words, Answer.NEVER)
    if kind == "DrmCommunicationException":
        return _first(_COMMUNICATION, words, Answer.UNCERTAIN)
    return Answer.UNCERTAIN


def in_words(text: str) -> str:
    """An error text as one line for people."""
    lines = (re.sub(r"^error: |^job rejected: ", "", line.strip()) for line in text.splitlines())
    return "; ".join(dict.fromkeys(line for line in lines if line))[:500]


def _first(table: tuple[tuple[str, Answer], ...], words: str, otherwise: Answer) -> Answer:
    return next((answer for pattern, answer in table if re.search(pattern, words)), otherwise)
