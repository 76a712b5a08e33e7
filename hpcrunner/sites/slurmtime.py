"""Slurm's notation of time limits, read into seconds.

The forms are those of ``--time`` in sbatch(1): ``minutes``, ``minutes:seconds``,
``hours:minutes:seconds``, ``days-hours``, ``days-hours:minutes``,
``days-hours:minutes:seconds``; and ``UNLIMITED`` or ``INFINITE`` as slurm.conf(5) has it.
"""

from __future__ import annotations

import math
import re

FORMS = "30 (minutes), 45:00 (minutes:seconds), 02:00:00, 1-12, 1-12:00:00 or UNLIMITED"

# What every time fits, for editors: in what Python and ECMAScript have in common.
_FOR_EVER = "[Uu][Nn][Ll][Ii][Mm][Ii][Tt][Ee][Dd]|[Ii][Nn][Ff][Ii][Nn][Ii][Tt][Ee]"
PATTERN = (
    "^([0-9]{1,5}-[0-9]+(:[0-9]+){0,2}|[0-9]{1,7}:[0-9]{1,9}:[0-9]+"
    f"|[0-9]{{1,9}}(:[0-9]+)?|{_FOR_EVER})$"
)

_PARTS = re.compile(
    r"(?:(?P<days>\d{1,5})-(?P<day_hours>\d+)(?::(?P<day_minutes>\d+)(?::(?P<day_seconds>\d+))?)?"
    r"|(?:(?P<hours>\d{1,7}):(?=\d+:\d+$))?(?P<minutes>\d{1,9})(?::(?P<seconds>\d+))?)",
    re.ASCII,
)


def parse_time(text: str) -> int | None:
    """Seconds, or None for UNLIMITED. Raises ValueError for any other text.

    A bare number is minutes, as everywhere in Slurm.
    """
    if text.upper() in ("UNLIMITED", "INFINITE"):
        return None
    match = _PARTS.fullmatch(text)
    if match is None:
        raise ValueError(f"not a Slurm time: {text!r}")
    part = {name: int(value or 0) for name, value in match.groupdict().items()}
    hours = part["days"] * 24 + part["day_hours"] + part["hours"]
    minutes = hours * 60 + part["day_minutes"] + part["minutes"]
    return minutes * 60 + part["day_seconds"] + part["seconds"]


def time_text(seconds: float) -> str:
    """``hours:minutes:seconds``, with ``days-`` before them from a day on. Rounds up."""
    minutes, second = divmod(math.ceil(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour:02d}:{minute:02d}:{second:02d}"
    return f"{days}-{clock}" if days else clock
