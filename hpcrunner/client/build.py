"""The message of a hand-submitted experiment, in the shape that released clients send."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hpcrunner.request.model import StoreConfig

# The tags that the released client gives every script.
MUTABLE_TAGS = ("modeldir", "retval", "output", "tb", "_metrics", "_metadata")
WORKSPACE = "workspace"
CONTAINER = "_singularity"


@dataclass(frozen=True, slots=True)
class Work:
    """What a person wants to be run.

    ``filename`` is relative to the workspace, None for a container's own program. Sizes are
    texts as the client's (``4g``); empty texts and zeros leave the choice to the site.
    ``max_duration`` is a duration text.
    """

    filename: str | None
    args: tuple[str, ...] = ()
    cpus: int = 0
    gpus: int = 0
    gpu_memory: str = ""
    ram: str = ""
    hdd: str = ""
    max_duration: str = ""
    python_version: str = ""
    packages: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    container: str = ""
    owner: str = ""
    project: str = ""


def workspace_key(sha256: str) -> str:
    """The key of an immutable archive of that SHA-256 (hex): equal content is stored once."""
    return f"blobstore/{sha256}.tar"


def artifact_key(experiment: str, tag: str) -> str:
    """The key of an experiment's mutable artifact."""
    return f"experiments/{experiment}/{tag}.tar"


def new_key(clock: Callable[[], float], new_uuid: Callable[[], object]) -> str:
    """A key as the client makes it: epoch seconds and a UUID."""
    return f"{int(clock())}_{new_uuid()}"


def build_request(
    work: Work, key: str, workspace_sha256: str, store: StoreConfig, now: float
) -> bytes:
    """The message: UTF-8 JSON with ``experiment`` and ``config``.

    ``store`` is where the workspace's archive of that SHA-256 lies and results shall go
    (type ``local``); ``now`` is epoch seconds.
    """
    artifacts = {
        tag: _artifact(store, artifact_key(key, tag), mutable=True) for tag in MUTABLE_TAGS
    }
    artifacts[WORKSPACE] = _artifact(store, workspace_key(workspace_sha256), mutable=False)
    if work.container:
        artifacts[CONTAINER] = {
            "mutable": False,
            "unpack": False,
            "qualified": work.container,
        }
    experiment = {
        "key": key,
        "filename": work.filename,
        "args": [shlex.quote(a) for a in work.args],
        "pythonenv": list(work.packages),
        "pythonver": work.python_version,
        "project": work.project or None,
        "owner": work.owner or "guest",
        "resources_needed": _resources(work),
        "artifacts": artifacts,
        "status": "waiting",
        "time_added": now,
        "time_started": None,
        "time_finished": None,
        "time_last_checkpoint": now,
        "max_duration": work.max_duration or None,
        "info": {},
        "git": None,
        "metric": None,
    }
    config = {
        "database": {"type": store.type, "endpoint": store.endpoint, "bucket": RECORDS_BUCKET},
        "storage": {"type": store.type, "endpoint": store.endpoint, "bucket": store.bucket},
        "env": dict(work.environment),
        "saveWorkspaceFrequency": "1m",
        "verbose": "info",
    }
    return json.dumps({"experiment": experiment, "config": config}).encode()


RECORDS_BUCKET = "studioml-meta"
ARTIFACTS_BUCKET = "storage"


def _artifact(store: StoreConfig, key: str, *, mutable: bool) -> dict[str, Any]:
    return {
        "key": key,
        "qualified": f"file://{store.endpoint}/{store.bucket}/{key}",
        "bucket": store.bucket,
        "mutable": mutable,
        "unpack": True,
    }


def _resources(work: Work) -> dict[str, Any]:
    asked = {
        "cpus": work.cpus,
        "gpus": work.gpus,
        "gpuMem": work.gpu_memory,
        "ram": work.ram,
        "hdd": work.hdd,
    }
    return {name: value for name, value in asked.items() if value}
