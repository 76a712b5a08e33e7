"""What a message would be submitted as: script, native specification and plan, secrets masked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.native import NativeRefused, native_specification
from hpcrunner.batch.script import render_script
from hpcrunner.gateway.admission import admit_request
from hpcrunner.gateway.assemble import spool_of
from hpcrunner.gateway.opening import look_inside
from hpcrunner.keys.keyring import NO_KEYS, Keyring
from hpcrunner.request.plan import Plan
from hpcrunner.request.redact import redact_document
from hpcrunner.sites.node_setup import node_setup
from hpcrunner.sites.site import Site

_BATCH = "0" * 12


def preview(body: bytes, site: Site, keys: Keyring = NO_KEYS) -> dict[str, Any]:
    """The texts that a submission of this message would consist of, as JSON-able values.

    A sealed one is opened with ``keys``; its signature is not looked at. Raises what
    ``look_inside`` and ``admit_request`` raise; touches nothing.
    """
    # An old request can be looked at too.
    admission = admit_request(look_inside(body, keys), site, 0.0)
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
