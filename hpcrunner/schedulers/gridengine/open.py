"""The ``gridengine`` backend of a site."""

from __future__ import annotations

import os

from hpcrunner.batch import gridengine
from hpcrunner.batch.batch import Batch
from hpcrunner.batch.drmaa import DrmaaJob
from hpcrunner.schedulers.backend import Backend
from hpcrunner.schedulers.drmaa_session import DrmaaSession
from hpcrunner.schedulers.drmaa_submitter import DrmaaSubmitter
from hpcrunner.schedulers.gridengine.cluster import GridEngine
from hpcrunner.schedulers.gridengine.drm import gridengine_drm
from hpcrunner.schedulers.gridengine.environment import library_environment
from hpcrunner.sites.site import Site

# What a library says of itself begins with one of these: Sun's heirs, Univa's, Altair's, Gridware.
NAMES = ("SGE", "OGS", "GE", "UGE", "UNIVA", "AGE", "ALTAIR", "GRID ENGINE", "OCS", "GCS")


def gridengine_session(library: str) -> DrmaaSession:
    """The library in a process of its own; it is not loaded yet."""
    return DrmaaSession(library, library_environment(os.environ))


def gridengine_backend(site: Site, session: DrmaaSession) -> Backend:
    """The backend that submits through the session."""

    def drmaa_job(batch: Batch) -> DrmaaJob:
        return gridengine.drmaa_job(batch, site)

    return Backend(
        DrmaaSubmitter(session, gridengine_drm(drmaa_job), name="gridengine"),
        GridEngine(accounting=site.accounting.mode != "none", lag=site.accounting.wait),
    )
