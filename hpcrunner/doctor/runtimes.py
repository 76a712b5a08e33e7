"""Whether a container program's release is fit for what containers are run with, judged."""

from __future__ import annotations

from collections.abc import Iterator

from hpcrunner.batch.runtimes import shortcomings, unknown_words
from hpcrunner.doctor.finding import Finding, fault, ok, warning
from hpcrunner.sites.site import Site

_NEWER = "install Apptainer 1.2, SingularityCE 3.11 or newer, or name one as container.program"


def judge_runtime(
    check: str, said: str, site: Site, where: str, *, runs_here: bool
) -> Iterator[Finding]:
    """What its line by ``--version`` tells. Where no container runs, nothing is a fault."""
    isolation = site.container.isolation
    amd = any(gpu.vendor == "amd" for part in site.partitions for gpu in part.gpus)
    unknown = unknown_words(said, isolation=isolation)
    if unknown:
        text = f"too old, no container runs with it ({said} does not know {', '.join(unknown)})"
        yield (fault if runs_here else warning)(check, text, where, _NEWER)
        return
    yield ok(check, said, where)
    for clause in shortcomings(said, isolation=isolation, amd=amd):
        yield warning(check, f"{said}: {clause}", where, _NEWER)
