"""The message of an experiment, in the shape that the released client (0.0.49) sends."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.model import AwsCredentials, StoreConfig
from hpcrunner.request.storelayout import (
    ARTIFACTS_BUCKET,
    RECORDS_BUCKET,
    artifact_key,
    workspace_key,
)

# The tags that the released client gives every script.
MUTABLE_TAGS = ("modeldir", "retval", "output", "tb", "_metrics", "_metadata")
WORKSPACE = "workspace"
CONTAINER = "_singularity"
_AWS = "s3.amazonaws.com"


class StoreUnknown(HpcrunnerError):
    """A kind of store that requests cannot be built for."""

    exit_code = 64  # EX_USAGE


@dataclass(frozen=True, slots=True)
class Work:
    """What a person wants to be run.

    ``filename`` is relative to the workspace, None for a container's own program. Sizes are
    texts as the client's (``4g``); empty texts and zeros leave the choice to the site.
    ``max_duration`` (of one attempt's run) and ``lifetime`` (from now on) are duration texts.
    ``packages`` is the whole Python environment, as ``pip freeze`` says it; ``pip`` are
    requirements on top of that.
    """

    filename: str | None
    args: tuple[str, ...] = ()
    cpus: int = 0
    gpus: int = 0
    gpu_memory: str = ""
    gpu_type: str = ""
    ram: str = ""
    hdd: str = ""
    max_duration: str = ""
    lifetime: str = ""
    python_version: str = ""
    packages: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    container: str = ""
    owner: str = ""
    project: str = ""


@dataclass(frozen=True, slots=True)
class Stores:
    """Where artifacts (``storage``) and records (``database``) go: type ``local`` or ``s3``."""

    storage: StoreConfig
    database: StoreConfig

    def __post_init__(self) -> None:
        for name, store in (("storage", self.storage), ("database", self.database)):
            if store.type not in ("local", "s3"):
                raise StoreUnknown(
                    f"{store.type!r} is not supported", where=name, remedy="use local or s3"
                )


def local_stores(folder: str) -> Stores:
    """Both stores below one absolute folder, as the client lays them out."""
    return Stores(
        StoreConfig("local", folder, ARTIFACTS_BUCKET),
        StoreConfig("local", folder, RECORDS_BUCKET),
    )


def build_request(work: Work, key: str, workspace_sha256: str, stores: Stores, now: float) -> bytes:
    """The message: UTF-8 JSON with ``experiment`` and ``config``, credentials in clear.

    The workspace's archive of that SHA-256 is expected in ``stores.storage``, and results go
    there. ``now`` is epoch seconds.
    """
    artifacts: dict[str, Any] = {
        WORKSPACE: _artifact(stores.storage, workspace_key(workspace_sha256), mutable=False),
        **{
            tag: _artifact(stores.storage, artifact_key(key, tag), mutable=True)
            for tag in MUTABLE_TAGS
        },
    }
    if work.container:
        artifacts[CONTAINER] = {"mutable": False, "unpack": False, "qualified": work.container}
    resources = _resources(work)
    experiment = {
        "key": key,
        "args": [shlex.quote(a) for a in work.args],
        "filename": work.filename,
        "pythonenv": list(work.packages),
        "project": work.project or None,
        "pythonver": work.python_version,
        "resources_needed": resources,
        "status": "waiting",
        "time_added": now,
        "time_started": None,
        "time_last_checkpoint": now,
        "time_finished": None,
        "info": {},
        "git": None,
        "metric": None,
        "max_duration": work.max_duration or None,
        "owner": work.owner or "guest",
        "from_compl_service": False,
        "artifacts": artifacts,
    }
    config = {
        "database": {**_store(stores.database), "authentication": "none"},
        "storage": _store(stores.storage),
        "env": dict(work.environment),
        "pip": list(work.pip) or None,
        "saveWorkspaceFrequency": "1m",
        "verbose": "info",
        "resources_needed": resources,
        **({"experimentLifetime": work.lifetime} if work.lifetime else {}),
    }
    return json.dumps({"experiment": experiment, "config": config}).encode()


def _artifact(store: StoreConfig, key: str, *, mutable: bool) -> dict[str, Any]:
    common = {"unpack": True, "mutable": mutable, "key": key}
    if store.type == "local":
        return {**common, "qualified": f"file://{store.endpoint}/{store.bucket}/{key}"}
    host = urlsplit(store.endpoint).netloc.rpartition("@")[2] or _AWS
    return {
        **common,
        "qualified": f"s3://{host}/{store.bucket}/{key}",
        "bucket": store.bucket,
        **_credentials(store.credentials),
    }


def _store(store: StoreConfig) -> dict[str, Any]:
    return {
        "type": store.type,
        "endpoint": store.endpoint,
        "bucket": store.bucket,
        **({"region": store.region} if store.region else {}),
        **_credentials(store.credentials),
    }


def _credentials(keys: AwsCredentials | None) -> dict[str, Any]:
    if keys is None:
        return {}
    aws = {
        "access_key": keys.access_key,
        "secret_access_key": keys.secret_access_key,
        **({"session_token": keys.session_token} if keys.session_token else {}),
        **({"region": keys.region} if keys.region else {}),
    }
    return {"credentials": {"aws": aws}}


def _resources(work: Work) -> dict[str, Any]:
    asked = {
        "cpus": work.cpus,
        "gpus": work.gpus,
        "gpuMem": work.gpu_memory,
        "gpuType": work.gpu_type,
        "ram": work.ram,
        "hdd": work.hdd,
    }
    return {name: value for name, value in asked.items() if value}
