"""The parts of ``staging: gateway`` put together."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.experiment import Experiment
from hpcrunner.gateway.happenings import Tell, nobody
from hpcrunner.gateway.preparation import Preparation
from hpcrunner.gateway.reader import Reader
from hpcrunner.gateway.spool import Spool, SpoolError
from hpcrunner.gateway.staging.fetching import Fetching
from hpcrunner.gateway.staging.layout import Layout
from hpcrunner.gateway.staging.objects import Objects
from hpcrunner.gateway.staging.uploads import Uploads
from hpcrunner.gateway.staging.wheels import Wheels
from hpcrunner.request.model import SealedRequest
from hpcrunner.request.parse import parse_message
from hpcrunner.request.plan import PlannedExperiment
from hpcrunner.request.plan_experiment import plan_experiment
from hpcrunner.sites.node_setup import carried_rules
from hpcrunner.sites.site import Site

log = logging.getLogger(__name__)

FOLDER = "staging"


@dataclass(frozen=True, slots=True)
class Staging:
    """What prepares experiments, and what sends their results.

    ``documents`` is where jobs leave theirs until they are sent.
    """

    preparations: tuple[Preparation, ...]
    uploads: Uploads
    documents: Path


def open_staging(
    journal: Reader,
    spool: Spool,
    site: Site,
    tell: Tell = nobody,
    images: Preparation | None = None,
) -> Staging | None:
    """What the site needs of it; None where nodes do all themselves, and always have.

    Where the site has changed its mind, what is under way comes to its end. Raises SpoolError.
    """
    layout = Layout(staging_folder(spool, site))
    wanted = site.staging == "gateway"
    if not wanted and not layout.attempts.is_dir():
        return None
    try:
        layout.prepare()
    except OSError as error:
        raise SpoolError(
            f"cannot be made ({error.strerror})",
            where=f"staging folder {layout.root}",
            remedy="name a folder that login node and compute nodes share as 'staging_dir'",
        ) from error
    objects = Objects(layout)

    def plan(e: Experiment) -> PlannedExperiment | None:
        try:
            request = parse_message(journal.message(e.id))
            if isinstance(request, SealedRequest):
                return None
            return plan_experiment(request, id=e.id, attempt=e.attempt, rules=carried_rules(site))
        except HpcrunnerError as error:
            log.warning("%s: %s", e.id, error.line())
            return None

    preparations = (Fetching(layout, objects), Wheels(layout, site, images)) if wanted else ()
    return Staging(
        preparations, Uploads(layout, objects, journal, plan, tell=tell), layout.documents
    )


def staging_folder(spool: Spool, site: Site) -> Path:
    """Where the gateway carries things through: a folder of this spool's own."""
    if not site.staging_dir:
        return spool.root / FOLDER
    own = hashlib.sha256(str(spool.root).encode()).hexdigest()[:12]
    return Path(site.staging_dir) / f"hpcrunner-{own}"
