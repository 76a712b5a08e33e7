"""Slurm's notation of time limits, read into seconds.

The forms are those of ``--time`` in sbatch(1): ``minutes``, ``minutes:seconds``,
``hours:minutes:seconds``, ``days-hours``, ``days-hours:minutes``,
``days-hours:minutes:seconds``; and ``UNLIMITED`` or ``INFINITE`` as slurm.conf(5) has it.
"""

from __future__ import annotations

import re

FORMS = "30 (minutes), 45:00 (minutes:seconds), 02:00:00, 1-12, 1-12:00:00 or UNLIMITED"

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
