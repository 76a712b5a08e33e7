"""A batch as a ``pyslurm.JobSubmitDescription``: sbatch's options by pyslurm's names for them.

The names are those of pyslurm 22.5 (pyslurm/core/job/submission.pyx), and the traps too: it knows
no ``gpus_per_node``, takes ``signal`` and then forgets it, and reads no ``#SBATCH`` line unless
told to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.drmaa import NativeRefused
from hpcrunner.batch.native import Directive, sbatch_directives
from hpcrunner.sites.directives import split_directive
from hpcrunner.sites.site import Site

Attribute = tuple[str, Callable[[str], Any]]


def _mebibytes(value: str) -> str:
    return f"{value}M"


def _gpus(value: str) -> str:
    return f"gpu:{value}"


_VALUES: dict[str, Attribute] = {
    "job-name": ("name", str),
    "comment": ("comment", str),
    "partition": ("partitions", str),
    "account": ("account", str),
    "qos": ("qos", str),
    "nodes": ("nodes", str),
    "ntasks": ("ntasks", int),
    "cpus-per-task": ("cpus_per_task", int),
    "mem": ("memory_per_node", _mebibytes),
    "mem-per-cpu": ("memory_per_cpu", _mebibytes),
    "tmp": ("temporary_disk_per_node", _mebibytes),
    "time": ("time_limit", str),
    "gres": ("gres_per_node", str),
    "gpus-per-node": ("gres_per_node", _gpus),
    "gpus": ("gpus", str),
    "array": ("array", str),
    "output": ("standard_output", str),
    "open-mode": ("log_files_open_mode", str),
    "chdir": ("working_directory", str),
    # What a site may add of its own.
    "constraint": ("constraints", str),
    "exclude": ("excluded_nodes", str),
    "licenses": ("licenses", str),
    "mail-user": ("mail_user", str),
    "nice": ("nice", int),
    "nodelist": ("required_nodes", str),
    "reservation": ("reservations", str),
    "threads-per-core": ("threads_per_core", int),
    "wckey": ("wckey", str),
}
_FLAGS: dict[str, tuple[str, Any]] = {
    "requeue": ("is_requeueable", True),
    "no-requeue": ("is_requeueable", False),
    "exclusive": ("resource_sharing", "exclusive"),
    "contiguous": ("requires_contiguous_nodes", True),
}
# The job side watches its time itself; limits of the login node are never handed on.
_LEFT_OUT = ("signal", "propagate")


def job_description(batch: Batch, site: Site) -> dict[str, Any]:
    """The attributes; ``export`` is the site's, for the child to make the environment of.

    Raises NativeRefused, naming the site key, for what pyslurm cannot carry.
    """
    made: dict[str, Any] = {"script": str(batch.script)}
    for directive in sbatch_directives(batch, site):
        if directive.name == "export":
            made["export"] = site.export
        elif directive.name not in _LEFT_OUT:
            name, value = _attribute(directive, site)
            made[name] = value
    return made


def pyslurm_refuses(words: Iterable[str]) -> tuple[str, ...]:
    """Those of these directives that pyslurm cannot carry."""
    return tuple(w for w in words if not _known(Directive(*split_directive(w))))


def _known(directive: Directive) -> bool:
    return directive.name in (_FLAGS if directive.value is None else _VALUES)


def _attribute(directive: Directive, site: Site) -> tuple[str, Any]:
    if not _known(directive):
        raise NativeRefused(
            f"{directive}: pyslurm has no such option",
            where=f"site {site.name}, key directives",
            remedy="take it out, or set scheduler: sbatch",
        )
    if directive.value is None:
        return _FLAGS[directive.name]
    name, read = _VALUES[directive.name]
    try:
        return name, read(directive.value)
    except ValueError:
        raise NativeRefused(
            f"{directive}: pyslurm takes only a number there",
            where=f"site {site.name}, key directives",
            remedy="correct it, or set scheduler: sbatch",
        ) from None
