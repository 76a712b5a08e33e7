"""Words that may stand in a bash script as they are.

A value from outside becomes a Word where it is born, by ``quote``; lines that the operator
wrote for bash become one by ``trusted``. The templates print nothing else.
"""

from __future__ import annotations

import re
import shlex

from hpcrunner.errors import HpcrunnerError

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class WordRefused(HpcrunnerError):
    """A value that no script of ours may hold."""

    exit_code = 65  # EX_DATAERR


class Word(str):
    """Text that is safe in a script: quoted, or the operator's own bash."""

    __slots__ = ()


def quote(value: str, *, what: str) -> Word:
    """The value as one bash word. ``what`` names it in the error.

    Raises WordRefused for control characters: a line break would end a ``#SBATCH`` line, and a
    NUL cannot be in any argument.
    """
    if _CONTROL.search(value):
        raise WordRefused(
            "control characters or line breaks", where=what, remedy="take another value"
        )
    return Word(shlex.quote(value))


def trusted(text: str) -> Word:
    """Bash as the operator wrote it."""
    return Word(text)
