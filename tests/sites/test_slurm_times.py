"""Slurm's time notation, form by form as sbatch(1) lists them."""

import pytest

from hpcrunner.sites.slurmtime import parse_time

HOUR, DAY = 3600, 86400


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30 * 60),
        ("90", 90 * 60),
        ("45:30", 45 * 60 + 30),
        ("02:00:00", 2 * HOUR),
        ("72:00:00", 72 * HOUR),
        ("1-12", DAY + 12 * HOUR),
        ("1-12:30", DAY + 12 * HOUR + 30 * 60),
        ("1-00:00:05", DAY + 5),
        ("0", 0),
        ("UNLIMITED", None),
        ("infinite", None),
    ],
)
def test_every_form_of_sbatch_is_read(text: str, seconds: int | None) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", " 30", "1h", "-5", "1-", "1:2:3:4", "1-1:2:3:4", "١٢", "3 days", "1.5", "2-x", "\n1"],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Slurm time"):
        parse_time(text)
