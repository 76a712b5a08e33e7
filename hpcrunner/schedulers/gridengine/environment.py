"""The environments of Grid Engine's commands, and of the child that holds its DRMAA library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hpcrunner.schedulers.environment import job_environment

# How the commands and the library find the cell: what a site's settings.sh sets.
_CELL = (
    "SGE_ROOT",
    "SGE_CELL",
    "SGE_CLUSTER_NAME",
    "SGE_QMASTER_PORT",
    "SGE_EXECD_PORT",
    "SGE_ARCH",
)


def cell_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """All that a command of Grid Engine's needs."""
    cell = {name: environ[name] for name in _CELL if environ.get(name)}
    return {**job_environment(environ), **cell}


def query_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """For commands whose output is parsed: C locale, and UTC, for they print local times bare.

    The home folder is none, lest the user's own ``.sge_qstat`` add options.
    """
    return {
        **cell_environment(environ),
        "LANG": "C",
        "LC_ALL": "C",
        "TZ": "UTC",
        "HOME": "/nonexistent",
    }


def accounting_file(environment: Mapping[str, str]) -> Path | None:
    """Where qacct reads, unless the site has set that otherwise; None without SGE_ROOT.

    Open Cluster Scheduler writes lines of JSON, and reads the other file where there is none.
    """
    root = environment.get("SGE_ROOT")
    if not root:
        return None
    file = Path(root, environment.get("SGE_CELL") or "default", "common", "accounting")
    lines = file.with_name("accounting.jsonl")
    return lines if lines.exists() else file


def library_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """For the child that loads libdrmaa.

    Debian's brings jemalloc, which wants more of the static TLS than glibc keeps for libraries
    that are loaded late (ld.so(8), GLIBC_TUNABLES). No job inherits any of this: the library
    exports nothing.
    """
    return {**cell_environment(environ), "GLIBC_TUNABLES": "glibc.rtld.optional_static_tls=16384"}
