"""What is asked of Slurm, once, in the two dialects: sbatch's options and DRMAA's native words.

Both come from the same list of directives, so that an experiment asks for the same CPUs,
memory, time, typed GPUs, name and requeueing on either way. The traps of the native
specification are those of slurm-drmaa 1.1.6 (slurm_drmaa/util.c and job.c).
"""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.drmaa import DrmaaJob
from hpcrunner.batch.drmaa import NativeRefused as NativeRefused
from hpcrunner.batch.words import Word, quote
from hpcrunner.sites.directives import split_directive, why_not_drmaa
from hpcrunner.sites.site import Site
from hpcrunner.sites.spec import JobSpec
from hpcrunner.sites.values import MIB

INDEX = "SLURM_ARRAY_TASK_ID"
# Slurm may announce the end of the time limit a minute early.
SIGNALS = ("USR1",)
_GPU_OPTIONS = ("gres", "gpus-per-node", "gpus")


@dataclass(frozen=True, slots=True)
class Directive:
    """One long option of sbatch, without its dashes; ``value`` is None for a flag."""

    name: str
    value: str | None = None

    def __str__(self) -> str:
        return f"--{self.name}" if self.value is None else f"--{self.name}={self.value}"


def directives(batch: Batch, site: Site) -> tuple[Directive, ...]:
    """What both sbatch and DRMAA are told about a batch, in the order of the header."""
    spec = batch.spec
    words = [Directive("job-name", batch.name), Directive("comment", batch.comment)]
    for name, value in (("partition", spec.partition), ("account", spec.account)):
        if value:
            words.append(Directive(name, value))
    if spec.qos:
        words.append(Directive("qos", spec.qos))
    # One node, and not more: a bare 1 is a minimum for slurm-drmaa.
    words += [Directive("nodes", "1-1"), Directive("ntasks", "1")]
    words.append(Directive("cpus-per-task", str(spec.cpus)))
    if spec.memory and site.memory_syntax == "mem":
        words.append(Directive("mem", str(_mib(spec.memory))))
    if spec.memory and site.memory_syntax == "mem-per-cpu":
        words.append(Directive("mem-per-cpu", str(_mib(-(-spec.memory // spec.cpus)))))
    if spec.tmp:
        words.append(Directive("tmp", str(_mib(spec.tmp))))
    if spec.time_limit:
        words.append(Directive("time", slurm_time(spec.time_limit)))
    words += _gpus(spec, site)
    words.append(Directive("requeue" if spec.requeue else "no-requeue"))
    words += _own_directives(spec)
    return tuple(words)


def _gpus(spec: JobSpec, site: Site) -> list[Directive]:
    """What asks for GPUs. A constraint for them is among the spec's directives already."""
    if not spec.gpus or site.gpu_syntax == "none":
        return []
    if spec.gpu_shards:
        # Slurm knows shards as a gres alone, and heeds no type of theirs.
        return [Directive("gres", f"shard:{spec.gpu_shards}")]
    typed = f"{spec.gpu_type}:{spec.gpus}" if spec.gpu_type else str(spec.gpus)
    value = f"gpu:{typed}" if site.gpu_syntax == "gres" else typed
    return [Directive(site.gpu_syntax, value)]


def _own_directives(spec: JobSpec) -> list[Directive]:
    """The site's own options, one ``--exclude`` holding its nodes and those of the spec."""
    words = [Directive(*split_directive(word)) for word in spec.directives]
    excluded = [word.value for word in words if word.name == "exclude" and word.value]
    words = [word for word in words if word.name != "exclude"]
    nodes = [*excluded, *spec.exclude]
    return [*words, Directive("exclude", ",".join(nodes))] if nodes else words


def sbatch_directives(batch: Batch, site: Site) -> tuple[Directive, ...]:
    """All that sbatch is told: ``directives``, and what DRMAA says by its own attributes."""
    words = list(directives(batch, site))
    if batch.size > 1:
        words.append(Directive("array", f"1-{batch.size}"))
    words.append(Directive("output", output_pattern(batch)))
    # A requeued job keeps the output of its first run; the login node's limits stay there.
    words += [Directive("open-mode", "append"), Directive("propagate", "NONE")]
    words.append(Directive("chdir", str(batch.folder)))
    words.append(Directive("export", site.export))
    # Without a time of its own the job has the partition's, which only this announces.
    words.append(Directive("signal", f"B:USR1@{_warning(site.grace)}"))
    return tuple(words)


def sbatch_words(batch: Batch, site: Site) -> tuple[str, ...]:
    """The options as argv words, not quoted. They win over SBATCH_* variables and the header."""
    return tuple(str(directive) for directive in sbatch_directives(batch, site))


def sbatch_lines(batch: Batch, site: Site) -> tuple[Word, ...]:
    """The options as ``#SBATCH`` lines, so that ``sbatch script`` by hand asks for the same.

    sbatch reads quotes in these lines as a shell does, except that a backslash escapes within
    single quotes too; no value of ours holds one (see the key ``spool``).
    """
    return tuple(
        Word(f"#SBATCH {quote(str(directive), what=f'--{directive.name}')}")
        for directive in sbatch_directives(batch, site)
    )


def output_pattern(batch: Batch) -> str:
    """The scheduler's output file, with Slurm's ``%a`` for the index of an array.

    It is the value of sbatch's ``--output`` and, after a colon, of DRMAA's ``outputPath``.
    """
    folder = str(batch.logs).replace("%", "%%")
    return f"{folder}/{'%a' if batch.size > 1 else '1'}.out"


def drmaa_job(batch: Batch, site: Site) -> DrmaaJob:
    """All that slurm-drmaa is told. Raises NativeRefused."""
    native = native_specification(batch, site)
    return DrmaaJob(native, remote_command(batch), output_pattern(batch))


def native_specification(batch: Batch, site: Site) -> str:
    """DRMAA's ``nativeSpecification`` for slurm-drmaa.

    Output, working folder and array bounds travel by other DRMAA attributes. Raises
    NativeRefused, naming the site key, for what slurm-drmaa would refuse, cut or drop.
    """
    return " ".join(_native_word(directive, site) for directive in directives(batch, site))


def remote_command(batch: Batch) -> str:
    """DRMAA's ``remoteCommand`` for slurm-drmaa.

    slurm-drmaa pastes this text unquoted into a bash script of its own, so it is bash: a quoted
    path, and ``exec``, without which the scheduler's signals would end the outer bash while
    the job side still saves. Give no ``args``: those are quoted wrongly.
    """
    return f"exec {shlex.quote(str(batch.script))}"


def slurm_time(seconds: int) -> str:
    """``hours:minutes:00``, the one form that sbatch and slurm-drmaa both take. Rounds up."""
    hours, minutes = divmod(-(-seconds // 60), 60)
    return f"{hours:02d}:{minutes:02d}:00"


def _native_word(directive: Directive, site: Site) -> str:
    name, value = directive.name, directive.value
    if name in _GPU_OPTIONS:
        # The value becomes tres_per_node as it stands; sbatch would have put the prefix.
        gpus = value if name == "gres" else f"gpu:{value}"
        name, value = "gres", f"{site.drmaa.gres_prefix}{gpus}"
    if name == "job-name":
        return f"--job_name={value}"
    if reason := why_not_drmaa(name, value):
        raise NativeRefused(
            f"{directive}: {reason}",
            where=f"site {site.name}, key directives",
            remedy="take it out, or set scheduler: sbatch",
        )
    return str(Directive(name, value))


def _warning(grace: float) -> int:
    """Seconds for sbatch's --signal, which takes 0 to 65535; the signal may be a minute early."""
    return min(math.ceil(grace), 65535)


def _mib(size: int) -> int:
    return -(-size // MIB)
