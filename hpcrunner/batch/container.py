"""A request's container image, and the words that run a payload in it."""

from __future__ import annotations

import re

from hpcrunner.errors import HpcrunnerError
from hpcrunner.sites.parts import Container

# What Apptainer and Singularity pull themselves.
_PULLED = ("docker", "oras", "library", "shub")
_ALLOWED = "docker://, dockerhub://, oras://, library://, shub://, file:/// or an absolute path"


class ImageRefused(HpcrunnerError):
    """An image that this site cannot run."""

    exit_code = 65  # EX_DATAERR


def exec_words(container: Container, image: str, gpus: int) -> tuple[str, ...]:
    """The words before the payload's own.

    ``image`` is the ``qualified`` of the request's ``_singularity`` artifact. ``@ROOT@`` and
    ``@WORKSPACE@`` stand for the experiment's folders, as PlannedExperiment.exec_words says.

    ``--contain`` keeps the host's home, /tmp and devices out; ``--home`` binds the experiment's
    folder at its own path and makes it HOME, for the home that ``--contain`` gives is a small
    memory file system. Not ``--containall``: it implies ``--cleanenv``, and the environment that
    the job side built must reach the payload. Raises ImageRefused.
    """
    if container.runtime == "none":
        raise ImageRefused(
            "the request brings a container image and this site runs none",
            where="artifact _singularity",
            remedy="set container.runtime in the site file",
        )
    graphics = ("--nv",) if gpus else ()
    return (
        container.runtime,
        "exec",
        "--contain",
        "--home",
        "@ROOT@",
        "--pwd",
        "@WORKSPACE@",
        *graphics,
        *container.options,
        image_word(image),
    )


def image_word(qualified: str) -> str:
    """The image as the runtime knows it. StudioML's ``dockerhub://`` is Docker's own hub.

    Raises ImageRefused for anything that is not clearly an image.
    """
    scheme, separator, rest = qualified.partition("://")
    if not re.search(r"[\x00-\x20\x7f]", qualified):
        if qualified.startswith("/"):
            return qualified
        if separator and scheme == "file" and rest.startswith("/"):
            return rest
        if separator and scheme == "dockerhub" and rest:
            return f"docker://{rest}"
        if separator and scheme in _PULLED and rest:
            return qualified
    raise ImageRefused(
        f"not a container image: {qualified[:200]!r}",
        where="artifact _singularity",
        remedy=f"allowed: {_ALLOWED}",
    )
