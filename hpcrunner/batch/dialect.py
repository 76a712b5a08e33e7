"""Whose words a site's batches are put in: one dialect for each kind of scheduler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hpcrunner.batch import gridengine, native
from hpcrunner.batch.batch import Batch
from hpcrunner.batch.drmaa import DrmaaJob, NativeRefused
from hpcrunner.batch.words import Word
from hpcrunner.sites.site import Site


@dataclass(frozen=True, slots=True)
class Dialect:
    """``header`` gives the script's lines for the scheduler, ``signals`` are what it sends early.

    ``name`` is what templates ask for. ``index`` is the variable that holds the index of an
    array's task. ``drmaa_job`` raises NativeRefused.
    """

    name: str
    header: Callable[[Batch, Site], tuple[Word, ...]]
    signals: tuple[str, ...]
    index: str
    drmaa_job: Callable[[Batch, Site], DrmaaJob]


def _nothing(_batch: Batch, _site: Site) -> tuple[Word, ...]:
    return ()


def _no_drmaa(_batch: Batch, site: Site) -> DrmaaJob:
    raise NativeRefused("the local scheduler has no DRMAA", where=f"site {site.name}")


SLURM = Dialect("slurm", native.sbatch_lines, native.SIGNALS, native.INDEX, native.drmaa_job)
GRID_ENGINE = Dialect(
    "gridengine", _nothing, gridengine.SIGNALS, gridengine.INDEX, gridengine.drmaa_job
)
LOCAL = Dialect("local", _nothing, (), "HPCRUNNER_TASK_ID", _no_drmaa)


def dialect_of(site: Site) -> Dialect:
    """The dialect of a site's scheduler."""
    return {"gridengine": GRID_ENGINE, "local": LOCAL}.get(site.scheduler, SLURM)
