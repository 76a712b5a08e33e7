"""The ``gridengine`` backend of a site."""

from __future__ import annotations

import os

from hpcrunner.batch import gridengine
from hpcrunner.batch.batch import Batch
from hpcrunner.batch.drmaa import DrmaaJob
from hpcrunner.schedulers.drmaa_scheduler import DrmaaScheduler
from hpcrunner.schedulers.drmaa_session import DrmaaSession
from hpcrunner.schedulers.gridengine.cluster import GridEngine
from hpcrunner.schedulers.gridengine.drm import gridengine_drm
from hpcrunner.schedulers.gridengine.environment import library_environment
from hpcrunner.sites.site import Site

# What a library says of itself begins with one of these: Sun's heirs, Univa's, Altair's, Gridware.
NAMES = ("SGE", "OGS", "GE", "UGE", "UNIVA", "AGE", "ALTAIR", "GRID ENGINE", "OCS", "GCS")


def open_gridengine(site: Site, library: str) -> DrmaaScheduler:
    """The backend; its library is not loaded yet."""

    def drmaa_job(batch: Batch) -> DrmaaJob:
        return gridengine.drmaa_job(batch, site)

    return DrmaaScheduler(
        GridEngine(accounting=site.accounting.mode != "none", lag=site.accounting.wait),
        DrmaaSession(library, library_environment(os.environ)),
        gridengine_drm(drmaa_job),
        name="gridengine",
    )
