"""How a site runs containers: the site file's mapping ``container``.

The descriptions are the text of docs/site-config.md.
"""

from __future__ import annotations

import posixpath
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hpcrunner.request.image import parse_image
from hpcrunner.sites.imagevalues import (
    ImageDigest,
    ImagePrefix,
    PinnedImage,
    Registry,
    SiteImage,
)
from hpcrunner.sites.part import Part
from hpcrunner.sites.values import (
    Age,
    Allowed,
    Memory,
    MemoryOrNone,
    NodePath,
    Program,
    Switch,
    Text,
    Variable,
)

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# What is the container's own, or would be the whole host.
_NEVER = ("/", "/dev")
_NEVER_BELOW = ("/proc", "/sys")


def split_bind(bind: str) -> tuple[str, str, str]:
    """Source, destination and mode (``rw`` or ``ro``) of ``SRC[:DST[:ro|rw]]``.

    Raises ValueError for what is no bind: a colon or a comma inside a path would be read as
    another bind by the runtime.
    """
    parts = bind.split(":")
    if _CONTROL.search(bind) or "," in bind or "\\" in bind or not 1 <= len(parts) <= 3:
        raise ValueError("a comma, backslash or control character, or too many colons")
    source = parts[0]
    target = parts[1] if len(parts) > 1 else source
    mode = parts[2] if len(parts) > 2 else "rw"
    if mode not in ("ro", "rw"):
        raise ValueError("a mode other than ro and rw")
    for path, starts in ((source, ("/", "$")), (target, ("/",) if len(parts) > 1 else ("/", "$"))):
        if not path.startswith(starts):
            raise ValueError("a path that is not absolute")
        if ".." in path.split("/"):
            raise ValueError("a path with ..")
        check_bound(path)
    return source, target, mode


def check_bound(path: str) -> None:
    """Refuse the host's root and the kernel's own file systems. Raises ValueError."""
    normal = posixpath.normpath("/" + path.lstrip("/"))
    below = any(normal == top or normal.startswith(f"{top}/") for top in _NEVER_BELOW)
    if path.startswith("/") and (normal in _NEVER or below):
        raise ValueError(f"{normal} is never bound")


def _bind(value: str) -> str:
    split_bind(value)
    return value


Bind = Annotated[
    str,
    AfterValidator(_bind),
    Allowed("SRC, SRC:DST or SRC:DST:ro; absolute paths, not /, /dev, /proc or /sys"),
]


class Container(Part):
    """How a request's ``_singularity`` image is run; docs/containers.md tells all of it."""

    runtime: Literal["none", "apptainer", "singularity"] = Field(
        default="none",
        description="Program that runs images; `none` rejects requests that bring one.",
    )
    program: Program | None = Field(
        default=None,
        description="Where that program is, if it is not on the `PATH` of the jobs.",
        examples=["/opt/apptainer/bin/apptainer"],
    )
    isolation: Switch = Field(
        default=True,
        description="Whether payloads see nothing of the node but their own folders, the binds "
        "below and their own variables (`--containall --cleanenv --no-mount hostfs,bind-paths`). "
        "`false` leaves that to the runtime's own settings.",
    )
    binds: tuple[Bind, ...] = Field(
        default=(),
        description="Folders and files of the nodes that every container sees; `$NAME` is "
        "replaced on the node.",
        examples=["/datasets:/datasets:ro"],
    )
    userns: Switch = Field(
        default=False,
        description="Whether to ask for a user namespace (`--userns`) where the runtime is "
        "installed setuid; one installed without needs no word.",
    )
    environment: tuple[Variable, ...] = Field(
        default=(),
        description="Names of the job's variables that containers get too, besides the "
        "scheduler's and those of the site's `environment`.",
        examples=["https_proxy"],
    )
    pythonenv: Literal["image", "install"] = Field(
        default="image",
        description="`image`: payloads run with the image's Python as it is, and `pythonenv` and "
        "`pip` are not looked at; `install`: these are installed on top of it, into the `cache`. A "
        "request may say otherwise in `config.runner.pythonenv`.",
    )
    options: tuple[Text, ...] = Field(
        default=(),
        description="More words for its `exec` and `run`, before the image.",
        examples=["--unsquash"],
    )
    image: SiteImage | None = Field(
        default=None,
        description="Image of requests that bring no `_singularity`; left out: they run without a "
        "container. It is trusted as it is.",
        examples=["/apps/images/pytorch.sif"],
    )
    trusted: tuple[ImagePrefix, ...] | None = Field(
        default=None,
        description="Images that requests may bring, by the first parts of their addresses; left "
        "out: any, `[]`: none. docs/images.md tells how they are compared.",
        examples=["docker://tensorflow/", "/apps/images/"],
    )
    pinned: dict[PinnedImage, ImageDigest] = Field(
        default_factory=dict,
        description="SHA-256 digests that images must have: the registry's for `docker://` and "
        "`oras://`, else that of the image file.",
        examples=[
            '{"/apps/a.sif": "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"}'
        ],
    )
    verify: NodePath | None = Field(
        default=None,
        description="File of public keys (`apptainer key export`, or PEM): with it only images "
        "that are signed by one of them run.",
        examples=["/apps/images/trusted-keys.asc"],
    )
    pull: Literal["node", "gateway"] = Field(
        default="node",
        description="Where images are pulled: by the first job that needs one, or by the gateway "
        "before it submits, for nodes without a network.",
    )
    cache: NodePath | None = Field(
        default=None,
        description="Folder in which a folder `images` is made, on a file system that all nodes "
        "share; left out: `cache`.",
        examples=["/scratch/$USER/hpcrunner"],
    )
    cache_size: MemoryOrNone = Field(
        default=20 * 1024**3,
        description="Most bytes in it: what was not used for longest goes, but nothing that a job "
        "has used in the last two hours.",
        examples=["200G"],
    )
    max_image: Memory = Field(
        default=20 * 1024**3,
        description="Most bytes of one image's file. While a Docker image is made into one, its "
        "layers and unpacked files may take four times as much.",
        examples=["40G"],
    )
    refresh: Age = Field(
        default=86400.0,
        description="For how long an image under a name that can change (a tag) serves before it "
        "is pulled anew; `UNLIMITED`: for ever.",
        examples=["7d"],
    )
    plain_http: tuple[Registry, ...] = Field(
        default=(),
        description="Registries that are asked by http, without TLS.",
        examples=["registry.cluster:5000"],
    )


def in_container(container: Container) -> list[tuple[tuple[str, ...], str]]:
    """What is wrong between its keys."""
    image, place = container.image or "", ("container", "image")
    if image and container.runtime == "none":
        return [(place, "needs container.runtime to run it")]
    if image and container.verify and parse_image(image).scheme == "docker":
        return [(place, "carries no signature, which container.verify demands")]
    return []
