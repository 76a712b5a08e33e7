"""What the plan of a batch says about the site's nodes."""

from __future__ import annotations

from dataclasses import replace

from hpcrunner.request.hosts import ANYWHERE, HostRule
from hpcrunner.request.image import ImageSetup
from hpcrunner.request.location import TlsFiles
from hpcrunner.request.plan import ContainerSetup, NodeSetup
from hpcrunner.request.resolve import StoreRules
from hpcrunner.request.trust import ImageRules, parse_pin, parse_prefix
from hpcrunner.sites.site import Site

# These name the host's files, wherever they are set.
_THE_HOSTS = frozenset(
    {"PATH", "HOME", "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONHOME", "PYTHONPATH", "TMPDIR"}
)


def node_setup(site: Site, time_limit: int) -> NodeSetup:
    """The node setup for a job of that time limit: seconds, 0 for none (as in JobSpec)."""
    return NodeSetup(
        scratch=site.scratch,
        cache=site.cache,
        interpreters=tuple(sorted(site.interpreters.items())),
        time_limit=float(time_limit) if time_limit else None,
        grace=site.grace,
        payload_signal=site.payload_signal,
        payload_grace=site.payload_grace,
        kill_wait=site.kill_wait,
        environments_kept=site.retention.environments,
        artifact_cache=site.artifact_cache.path or "",
        artifact_cache_size=site.artifact_cache.size,
        disk_watched=site.enforce_disk,
        generate_metadata=site.generate_metadata,
        schema_logs=site.schema_logs,
        gpu_check=site.gpus.check,
        images=image_setup(site),
        container=container_setup(site),
    )


def container_setup(site: Site) -> ContainerSetup:
    """What the plan says about payloads in containers."""
    container = site.container
    names = {*site.environment, *container.environment} - _THE_HOSTS
    return ContainerSetup(container.isolation, tuple(sorted(names)), container.pythonenv)


def image_setup(site: Site) -> ImageSetup:
    """What the plan says about pulling images."""
    container = site.container
    return ImageSetup(
        runtime=container.program or container.runtime,
        cache=container.cache or "",
        size=container.cache_size,
        largest=container.max_image,
        refresh=container.refresh,
        keys=container.verify or "",
        plain_http=container.plain_http,
    )


def image_rules(site: Site) -> ImageRules:
    """What the site says about which images run."""
    container = site.container
    trusted = container.trusted
    return ImageRules(
        default=container.image or "",
        trusted=None if trusted is None else tuple(map(parse_prefix, trusted)),
        pinned=tuple(parse_pin(image, digest) for image, digest in container.pinned.items()),
        signed=container.verify is not None,
    )


def host_rule(site: Site) -> HostRule:
    """Which hosts a message may have the gateway contact."""
    return HostRule() if site.gateway_hosts is None else HostRule(site.gateway_hosts)


def carried_rules(site: Site) -> StoreRules:
    """What it says about stores that the gateway fetches from and sends to."""
    return replace(store_rules(site), hosts=host_rule(site), lends=site.gateway_credentials)


def planned_rules(site: Site) -> StoreRules:
    """The same of an experiment's artifacts, by whoever carries them."""
    return carried_rules(site) if site.staging == "gateway" else store_rules(site)


def image_store_rules(site: Site) -> StoreRules:
    """The same of images in stores."""
    return carried_rules(site) if site.gateway_fetches else store_rules(site)


def record_rules(site: Site) -> StoreRules:
    """The same of clients' database records, which the gateway writes for whatever site."""
    if site.staging == "gateway":
        return carried_rules(site)
    hosts = ANYWHERE if site.gateway_hosts is None else host_rule(site)
    return replace(store_rules(site), hosts=hosts)


def store_rules(site: Site) -> StoreRules:
    """What the site says about its requests' stores, wherever they are asked from."""
    s3 = site.s3
    files = TlsFiles(s3.ca or "", s3.cert or "", s3.key or "")
    return StoreRules(site.allow_env_secrets, tls=files if files != TlsFiles() else None)
