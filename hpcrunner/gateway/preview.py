"""What a message would be submitted as: script, native specification and plan, secrets masked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.dialect import dialect_of
from hpcrunner.batch.drmaa import NativeRefused
from hpcrunner.batch.script import render_script
from hpcrunner.gateway.admission import admit_request, rule_of
from hpcrunner.gateway.assemble import spool_of
from hpcrunner.gateway.opening import look_inside
from hpcrunner.gateway.spool import SUBMIT_QUEUE
from hpcrunner.keys.keyring import NO_KEYS, Keyring
from hpcrunner.request.parse import sealed_part
from hpcrunner.request.plan import Plan
from hpcrunner.request.redact import redact_document
from hpcrunner.sites.node_setup import node_setup
from hpcrunner.sites.site import Site

_BATCH = "0" * 12


def preview(
    body: bytes, site: Site, keys: Keyring = NO_KEYS, queue: str = SUBMIT_QUEUE
) -> dict[str, Any]:
    """The texts that a submission of this message would consist of, as JSON-able values.

    A sealed one is opened with ``keys``; its signature is not looked at, but taken for good. The
    site's rules are asked as if it came by ``queue``. Raises what ``look_inside``, ``rule_of``
    and ``admit_request`` raise; touches nothing.
    """
    # An old request can be looked at too.
    request = look_inside(body, keys)
    signed = queue == SUBMIT_QUEUE or bool(sealed_part(body))
    admission = admit_request(request, site, 0.0, rule_of(request, site, queue, signed=signed))
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
        return dialect_of(site).drmaa_job(batch, site).native
    except NativeRefused as error:
        return f"none: {error.line()}"
