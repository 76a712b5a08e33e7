"""What is asked of Grid Engine, in the words of qsub(1) that its DRMAA library takes.

The library reads the native specification as qsub reads its command line, but not through a
shell: words are parted by blanks and nothing is quoted. Name, working folder, output and array
bounds travel by attributes of their own. Nothing is exported (``-V``, ``-v``): a job has what the
execution daemon gives it, and what its script sets.
"""

from __future__ import annotations

import re

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.drmaa import DrmaaJob, NativeRefused
from hpcrunner.sites.site import Site
from hpcrunner.sites.spec import JobSpec
from hpcrunner.sites.values import MIB

INDEX = "SGE_TASK_ID"
# Signals that come to every process before a suspension and before the end (``-notify``), and
# would end bash before the job side listens.
SIGNALS = ("USR1", "USR2")

_PARAMETRIC_INDEX = "$drmaa_incr_ph$"
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)


def drmaa_job(batch: Batch, site: Site) -> DrmaaJob:
    """All that the library is told. Raises NativeRefused, naming the site key."""
    return DrmaaJob(native_specification(batch, site), str(batch.script), output_pattern(batch))


def native_specification(batch: Batch, site: Site) -> str:
    """DRMAA's ``nativeSpecification``. Raises NativeRefused."""
    spec, names = batch.spec, site.gridengine
    words: list[str] = []
    if spec.partition and names.queue_named:
        words += ["-q", spec.partition]
    if spec.account:
        words += ["-P", spec.account]
    if spec.cpus > 1:
        words += ["-pe", names.parallel_environment, str(spec.cpus)]
    if asked := _resources(spec, site):
        words += ["-l", ",".join(asked)]
    if names.priority:
        words += ["-p", str(names.priority)]
    # A signal comes before the end, as long before it as the queue's ``notify`` says.
    words += ["-notify", "-r", "y" if spec.requeue else "n"]
    words += spec.directives
    return " ".join(words)


def output_pattern(batch: Batch) -> str:
    """The output file, with DRMAA's own word for the index of an array.

    Raises NativeRefused where Grid Engine would read more than a path out of it.
    """
    folder = str(batch.logs)
    if found := re.search(r"[$:,\s]", folder):
        raise NativeRefused(
            f"Grid Engine takes no path with {found[0]!r} for output: {folder}",
            where="key spool",
            remedy="choose a plain path",
        )
    return f"{folder}/{_PARAMETRIC_INDEX if batch.size > 1 else '1'}.out"


def _resources(spec: JobSpec, site: Site) -> list[str]:
    names = site.gridengine
    asked = [f"h_rt={spec.time_limit}"] if spec.time_limit else []
    if spec.memory:
        each = spec.memory if names.memory_per == "job" else -(-spec.memory // spec.cpus)
        asked += [f"{name}={-(-each // MIB)}M" for name in names.memory_resources]
    if spec.tmp and names.tmp_resource:
        asked.append(f"{names.tmp_resource}={-(-spec.tmp // MIB)}M")
    if spec.gpus:
        asked.append(f"{names.gpu_resource}={_gpus(spec, site)}")
        if spec.gpu_type and names.gpu_type_resource:
            asked.append(f"{names.gpu_type_resource}={spec.gpu_type}")
    if hosts := [host for host in spec.exclude if _HOST.fullmatch(host)]:
        # Every host but these, in the words of complex(5).
        asked.append(f"h=!{hosts[0]}" if len(hosts) == 1 else f"h=!({'|'.join(hosts)})")
    return asked


def _gpus(spec: JobSpec, site: Site) -> int:
    if site.gridengine.gpus_per == "job":
        return spec.gpus
    each, rest = divmod(spec.gpus, spec.cpus)
    if rest:
        raise NativeRefused(
            f"{spec.gpus} GPUs cannot be shared out evenly over {spec.cpus} CPUs, and GPUs are "
            "counted for each CPU here",
            where=f"site {site.name}, key gridengine.gpus_per",
            remedy="ask for as many CPUs as GPUs",
        )
    return each
