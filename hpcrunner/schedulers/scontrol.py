"""scontrol(1) show config: what the cluster says of itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from hpcrunner.schedulers.command import Completed
from hpcrunner.schedulers.contract import SchedulerUnavailable

_LINE = re.compile(r"(?P<key>[A-Za-z0-9_/]+)\s*=\s(?P<value>.*)")


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """The few settings that matter here.

    ``max_array_size`` is one more than the highest array index; 0 forbids arrays.
    ``min_job_age`` (s) is how long squeue shows a job that has ended. ``accounting`` is True
    where slurmdbd keeps accounts, which is what sacct reads.
    """

    version: str = ""
    cluster: str = ""
    max_array_size: int = 1001
    min_job_age: int = 300
    accounting: bool = False


ARGV = ["scontrol", "show", "config"]


def parse(completed: Completed) -> ClusterConfig:
    """Raises SchedulerUnavailable where the controller did not answer."""
    return config_of(settings(completed))


def settings(completed: Completed) -> dict[str, str]:
    """All settings by name. Raises SchedulerUnavailable where the controller did not answer."""
    values = {
        match["key"]: match["value"].strip()
        for match in map(_LINE.fullmatch, completed.stdout.split("\n"))
        if match
    }
    if completed.returncode != 0 or "SLURM_VERSION" not in values:
        raise SchedulerUnavailable(
            f"failed ({completed.stderr.strip().partition(chr(10))[0][:200] or 'no word why'})",
            where="scontrol show config",
            remedy="is the Slurm controller up (scontrol ping)?",
        )
    return values


def config_of(values: Mapping[str, str]) -> ClusterConfig:
    """The few that matter, out of all settings."""
    return ClusterConfig(
        version=values.get("SLURM_VERSION", ""),
        cluster=values.get("ClusterName", ""),
        max_array_size=_number(values.get("MaxArraySize", ""), 1001),
        min_job_age=_number(values.get("MinJobAge", ""), 300),
        accounting="slurmdbd" in values.get("AccountingStorageType", ""),
    )


def _number(text: str, default: int) -> int:
    match = re.match(r"\d{1,9}", text)
    return int(match[0]) if match else default
