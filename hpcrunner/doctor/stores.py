"""The stores that the requests of a site use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from hpcrunner.doctor.finding import Finding, fault, not_tried, ok
from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.metadata_store import location_of
from hpcrunner.request.hosts import PUBLIC
from hpcrunner.request.location import Location
from hpcrunner.request.model import Artifact, Request, Resources, StoreConfig
from hpcrunner.request.resolve import resolve_artifact
from hpcrunner.sites.node_setup import host_rule, planned_rules, store_rules
from hpcrunner.sites.site import Site
from hpcrunner.storage.reach import reach

_OBJECT = "hpcrunner-doctor"  # need not be there
_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_DEFAULT_REGION",
    "MINIO_ACCESS_KEY",
    "MINIO_SECRET_KEY",
)


def location(address: str, site: Site, environ: Mapping[str, str]) -> Location:
    """An address as an artifact would have it, with the environment's S3 keys as ``config.env``'s.

    ``s3:https://host/bucket`` says by which protocol an S3 server is reached, as the ``endpoint``
    of a request's ``config.storage`` does. Where the gateway carries artifacts, it is
    asked as the gateway would: by the site's ``gateway_hosts`` and ``gateway_credentials``. Raises
    RequestError.
    """
    plain, storage = address.rstrip("/"), None
    if plain.startswith(("s3:http://", "s3:https://")):
        parts = urlsplit(plain.removeprefix("s3:"))
        storage = StoreConfig(type="s3", endpoint=f"{parts.scheme}://{parts.netloc}")
        plain = f"s3://{parts.netloc}{parts.path}"
    web = plain.startswith(("http://", "https://"))
    artifact = Artifact(
        tag="doctor", mutable=False, unpack=False, qualified=plain if web else f"{plain}/{_OBJECT}"
    )
    request = Request(
        key=_OBJECT,
        filename=None,
        args=(),
        artifacts=(artifact,),
        resources=Resources(),
        environment=tuple((name, environ[name]) for name in _CREDENTIALS if environ.get(name)),
        storage=storage,
    )
    rules = replace(planned_rules(site), allow_env_secrets=True)
    found = resolve_artifact(request, artifact, rules)
    if found is None:  # images of registries, which no artifact of this tag is
        raise AssertionError(address)
    return found


def judge_store(place: Location) -> Finding:
    """Ask a store from here."""
    try:
        return ok("store", reach(place), shown(str(place)))
    except HpcrunnerError as error:
        return fault("store", error.what, shown(str(place)), error.remedy)


def shown(address: str) -> str:
    """The address without the object that need not be there."""
    return address.removesuffix(f"/{_OBJECT}")


def judge_hosts(site: Site) -> list[Finding]:
    """Which hosts messages may have the gateway contact, where it fetches or pulls for them."""
    if "gateway" not in (site.staging, site.container.pull):
        return []
    allowed = host_rule(site).allowed
    if allowed == (PUBLIC,):
        what = "the internet alone: private networks are refused until the site names them"
    else:
        what = ", ".join(allowed) or "none: whatever is no file is refused"
    return [ok("gateway_hosts", what)]


def judge_stores(site: Site, places: Sequence[Location]) -> list[Finding]:
    """The stores of the options, and the gateway's own."""
    findings = [judge_store(place) for place in places]
    if site.metadata_store is not None:
        tls = store_rules(site).tls
        findings.append(judge_store(location_of(site.metadata_store, _OBJECT, tls)))
    if not findings:
        why = "none is given: requests bring their own; say --store ADDRESS for one of theirs"
        findings.append(not_tried("store", why))
    return findings
