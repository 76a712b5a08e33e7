"""The words that run a payload in a container, for Apptainer and Singularity alike. Pure."""

from __future__ import annotations

from hpcrunner.request.image import WHERE, ImageRefused
from hpcrunner.sites.container import Container
from hpcrunner.sites.spec import JobSpec

# Libraries and devices of the GPUs' maker; without GPUs the option would only warn.
_GRAPHICS = {"nvidia": ("--nv",), "amd": ("--rocm",)}
_ALONE = (
    # Own files, processes and IPC, and none of the caller's variables ...
    "--containall",
    "--cleanenv",
    # ... and neither the host's file systems nor the binds of the runtime's own settings.
    "--no-mount",
    "hostfs,bind-paths",
    # /tmp and /var/tmp on the node's scratch; else they are a few megabytes of memory.
    "--workdir",
    "@TMP@",
)


def exec_words(container: Container, spec: JobSpec, *, run: bool = False) -> tuple[str, ...]:
    """The words before the payload's own; with ``run`` the image's own program is the payload.

    The job side fills in ``@STUDIOML_HOME@`` (all of the attempt's folders), ``@ROOT@`` (the
    experiment's among them), ``@WORKSPACE@`` (the working directory), ``@TMP@``,
    ``@ENVIRONMENT@`` (the file with the payload's variables), ``@BINDS@`` (more binds, any number
    of words) and ``@IMAGE@``, and ``$NAME`` in binds.

    ``--home`` binds the experiment's folder at its own path and makes it HOME, so that the user's
    own never shows. The variables go by file, since argv is public; ``--no-eval`` takes them as
    they are, where the runtime would have a shell expand them. Raises ImageRefused.
    """
    if container.runtime == "none":
        raise ImageRefused(
            "the request brings a container image and this site runs none",
            where=WHERE,
            remedy="set container.runtime in the site file",
        )
    binds = [word for bind in container.binds for word in ("--bind", bind)]
    return (
        container.program or container.runtime,
        "--quiet",
        "run" if run else "exec",
        *(_ALONE if container.isolation else ()),
        *(("--userns",) if container.userns else ()),
        *("--no-eval", "--env-file", "@ENVIRONMENT@"),
        *("--home", "@ROOT@", "--pwd", "@WORKSPACE@"),
        *_GRAPHICS.get(spec.gpu_vendor, ()),
        *binds,
        # Also since the container's own /tmp may have come over the first bind.
        *("--bind", "@STUDIOML_HOME@"),
        "@BINDS@",
        *container.options,
        "@IMAGE@",
    )
