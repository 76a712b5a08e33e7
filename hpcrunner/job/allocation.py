"""What the scheduler really gave this job, as its environment says, and the variables for it. Pure.

https://slurm.schedmd.com/sbatch.html names the variables of Slurm. The local scheduler sets
CUDA_VISIBLE_DEVICES alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS")
# What Slurm writes where gres/gpu is configured and a job has none.
_NO_DEVICE = frozenset({"", "NoDevFiles", "-1"})
_CPUS = ("SLURM_CPUS_ON_NODE", "SLURM_CPUS_PER_TASK")
_GPUS = ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS")
_GPU_COUNT = "SLURM_GPUS_ON_NODE"


@dataclass(frozen=True, slots=True)
class Allocation:
    """CPUs, and the GPUs as CUDA_VISIBLE_DEVICES has them.

    ``has_gpus`` is False where the job has none; ``devices`` is empty where it has none, or has
    some of which nobody says which.
    """

    cpus: int
    has_gpus: bool
    devices: tuple[str, ...]


def allocation_of(environ: Mapping[str, str], cpus: int, gpus: int) -> Allocation:
    """The allocation; ``cpus`` and ``gpus`` were asked for, and count where nothing is said."""
    for name in _CPUS:
        given = environ.get(name, "").strip()
        if given.isdecimal() and int(given) > 0:
            cpus = int(given)
            break
    named = any(environ.get(name, "").strip() for name in _GPUS)
    has_gpus = gpus > 0 or named or environ.get(_GPU_COUNT, "").strip() not in ("", "0")
    visible = environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    if not has_gpus or visible in _NO_DEVICE:
        return Allocation(cpus, has_gpus, ())
    return Allocation(cpus, True, tuple(filter(None, (d.strip() for d in visible.split(",")))))


def allocation_variables(allocation: Allocation) -> tuple[dict[str, str], dict[str, str]]:
    """Variables that hold whatever the request says, and such as it may set itself.

    Threads are as many as CPUs, not one fewer as on shared machines: these are the job's own.
    """
    fixed: dict[str, str] = {}
    usual = dict.fromkeys(THREADS, str(allocation.cpus))
    if allocation.cpus > 1:
        usual["OPENMP"] = "True"
    if not allocation.has_gpus:
        fixed.update(CUDA_VISIBLE_DEVICES="-1", NVIDIA_VISIBLE_DEVICES="-1")
    elif allocation.devices:
        fixed["NVIDIA_VISIBLE_DEVICES"] = ",".join(allocation.devices)
        # The numbers are those of the bus, not of CUDA's own order by speed.
        usual["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return fixed, usual
