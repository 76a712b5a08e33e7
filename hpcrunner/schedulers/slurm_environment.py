"""The environment of Slurm's commands."""

from __future__ import annotations

from collections.abc import Mapping

from hpcrunner.schedulers.environment import job_environment


def query_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """For commands whose output is parsed: C locale, times as epoch seconds, whole lists.

    ``SLURM_TIME_FORMAT`` and ``SLURM_BITSTR_LEN`` are described in squeue(1) and sacct(1).
    """
    return {
        **job_environment(environ),
        "LANG": "C",
        "LC_ALL": "C",
        "SLURM_TIME_FORMAT": "%s",
        "SLURM_BITSTR_LEN": "0",
    }
