"""The options about stores and what goes there, named as StudioML's; each replaces a site's key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from hpcrunner.cli.options import option
from hpcrunner.request.units import parse_bytes
from hpcrunner.sites.load import with_changes
from hpcrunner.sites.site import Site

_PANEL = "Stores, instead of the site's keys"

CacheDir = Annotated[
    str,
    option(
        "--cache-dir",
        "Folder on the nodes for immutable artifacts (artifact_cache.path).",
        metavar="FOLDER",
        rich_help_panel=_PANEL,
    ),
]
CacheSize = Annotated[
    str,
    option(
        "--cache-size",
        "Most in it, such as 20gb; 0: no cache (artifact_cache.size).",
        rich_help_panel=_PANEL,
    ),
]
S3Ca = Annotated[
    str,
    option(
        "--s3-ca",
        "PEM file of the authorities of S3 servers other than AWS's own (s3.ca).",
        metavar="FILE",
        rich_help_panel=_PANEL,
    ),
]
S3Cert = Annotated[
    str,
    option(
        "--s3-cert",
        "Client certificate to show them (s3.cert).",
        metavar="FILE",
        rich_help_panel=_PANEL,
    ),
]
S3Key = Annotated[
    str,
    option("--s3-key", "Its private key (s3.key).", metavar="FILE", rich_help_panel=_PANEL),
]
AllowEnvSecrets = Annotated[
    bool | None,
    option(
        "--allow-env-secrets/--no-allow-env-secrets",
        "Whether artifacts without credentials may use the AWS keys in config.env "
        "(allow_env_secrets).",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]


GenerateMetadata = Annotated[
    bool | None,
    option(
        "--generate-metadata/--no-generate-metadata",
        "Whether attempts leave metadata/scrape-host-….json in the bucket (generate_metadata).",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
SchemaLogs = Annotated[
    bool | None,
    option(
        "--schema-logs/--no-schema-logs",
        "Whether these documents have a log of what is printed (schema_logs).",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]


def with_stores(
    site: Site,
    *,
    s3_ca: str,
    s3_cert: str,
    s3_key: str,
    cache_dir: str = "",
    cache_size: str = "",
    allow_env_secrets: bool | None = None,
    generate_metadata: bool | None = None,
    schema_logs: bool | None = None,
) -> Site:
    """The site with what was given of these, judged like its file's. Raises SiteError.

    Not every command has all of them.
    """
    cache: dict[str, Any] = {"path": _absolute(cache_dir)} if cache_dir else {}
    if cache_size:
        cache["size"] = parse_bytes(cache_size)
    files = {"ca": s3_ca, "cert": s3_cert, "key": s3_key}
    s3 = {name: _absolute(file) for name, file in files.items() if file}
    changes: dict[str, Any] = {}
    if cache:
        changes["artifact_cache"] = {**dict(site.artifact_cache), **cache}
    if s3:
        changes["s3"] = {**dict(site.s3), **s3}
    switches = {
        "allow_env_secrets": allow_env_secrets,
        "generate_metadata": generate_metadata,
        "schema_logs": schema_logs,
    }
    changes.update((key, given) for key, given in switches.items() if given is not None)
    return with_changes(site, changes) if changes else site


def _absolute(path: str) -> str:
    """A path of the command line is one from where it was given."""
    return path if path.startswith("$") else str(Path(path).expanduser().absolute())
