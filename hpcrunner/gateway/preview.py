"""What a message would be submitted as: script, native specification and plan, secrets masked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.native import NativeRefused, native_specification
from hpcrunner.batch.script import render_script
from hpcrunner.gateway.admission import admit
from hpcrunner.gateway.assemble import spool_of
from hpcrunner.request.plan import Plan
from hpcrunner.request.redact import redact_document
from hpcrunner.sites.node_setup import node_setup
from hpcrunner.sites.site import Site

_BATCH = "0" * 12


def preview(body: bytes, site: Site) -> dict[str, Any]:
    """The texts that a submission of this message would consist of, as JSON-able values.

    Raises what ``admit`` raises; touches nothing.
    """
    admission = admit(body, site, 0.0)  # an old request can be looked at too
    folder: Path = spool_of(site).batch_folder(_BATCH)
    batch = Batch(_BATCH, admission.spec, 1, folder)
    plan = Plan(
        batch=_BATCH,
        setup=node_setup(site, admission.spec.time_limit),
        experiments=(admission.planned(experiment=_BATCH, attempt=1),),
    )
    shown = json.loads(plan.to_json())
    for experiment in shown["experiments"]:
        experiment["document"] = json.loads(experiment["document"])
    masked = redact_document(shown)
    return {
        "script": render_script(batch, site),
        "native_specification": _native(batch, site),
        "plan": masked,
        "plan_text": json.dumps(masked, indent=2),
    }


def _native(batch: Batch, site: Site) -> str:
    try:
        return native_specification(batch, site)
    except NativeRefused as error:
        return f"none: {error.line()}"
