"""What the scheduler really gave this job, as its environment says, and the variables for it. Pure.

The variables are those of request/scheduler_words.py. The local scheduler sets
CUDA_VISIBLE_DEVICES or ROCR_VISIBLE_DEVICES alone. What a scheduler has set is never changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hpcrunner.request.scheduler_words import SchedulerWords, words_of

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS")
# What Slurm writes where gres/gpu is configured and a job has none.
_NO_DEVICE = frozenset({"", "NoDevFiles", "-1"})
# Where a vendor's libraries look for their devices. Slurm sets more than one of them where
# nobody has told it whose the cards are, with the same numbers.
_DEVICES = {
    "nvidia": ("CUDA_VISIBLE_DEVICES",),
    "amd": ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
}
# Set to -1, each of these hides all devices.
_HIDDEN = (
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
)


@dataclass(frozen=True, slots=True)
class Allocation:
    """CPUs, and the GPUs as the variable of their ``vendor`` has them.

    ``has_gpus`` is False where the job has none; ``devices`` is empty where it has none, or has
    some of which nobody says which. ``denied``: the scheduler says in so many words that no
    device is there, or fewer than the job asked for. ``untold``: it names the devices, and has not
    told the vendor's libraries.
    """

    cpus: int
    has_gpus: bool
    devices: tuple[str, ...]
    vendor: str = "nvidia"
    denied: str = ""
    untold: bool = False


def allocation_of(environ: Mapping[str, str], cpus: int, gpus: int, vendor: str = "") -> Allocation:
    """The allocation; ``cpus`` and ``gpus`` were asked for, and count where nothing is said.

    ``vendor`` is ``nvidia`` or ``amd``; "" is taken for the former.
    """
    vendor = vendor or "nvidia"
    words = words_of(environ)
    for name in words.cpus:
        given = environ.get(name, "").strip()
        if given.isdecimal() and int(given) > 0:
            cpus = int(given)
            break
    named = any(environ.get(name, "").strip() for name in words.gpus)
    on_node = environ.get(words.gpu_count, "").strip()
    has_gpus = gpus > 0 or named or on_node not in ("", "0")
    if not has_gpus:
        return Allocation(cpus, False, (), vendor)
    variable = next((name for name in _DEVICES[vendor] if name in environ), "")
    visible = environ.get(variable, "").strip()
    devices: tuple[str, ...] = ()
    if not variable and (listed := _listed(environ, words)):
        return Allocation(cpus, True, listed, vendor, untold=True)
    if visible not in _NO_DEVICE:
        devices = tuple(filter(None, (device.strip() for device in visible.split(","))))
    denied = ""
    if variable:
        denied = f"{variable} is {visible or 'empty'}" if len(devices) < gpus else ""
    elif on_node.isdecimal() and int(on_node) < gpus:
        denied = f"{words.gpu_count} is {on_node}"
    return Allocation(cpus, True, devices, vendor, denied)


def allocation_variables(allocation: Allocation) -> tuple[dict[str, str], dict[str, str]]:
    """Variables that hold whatever the request says, and such as it may set itself.

    Threads are as many as CPUs, not one fewer as on shared machines: these are the job's own.
    """
    fixed: dict[str, str] = {}
    usual = dict.fromkeys(THREADS, str(allocation.cpus))
    if allocation.cpus > 1:
        usual["OPENMP"] = "True"
    if not allocation.has_gpus:
        fixed.update(dict.fromkeys(_HIDDEN, "-1"))
    elif allocation.untold:
        fixed[_DEVICES[allocation.vendor][0]] = ",".join(allocation.devices)
    if allocation.devices and allocation.vendor == "nvidia":
        fixed["NVIDIA_VISIBLE_DEVICES"] = ",".join(allocation.devices)
        # The numbers are those of the bus, not of CUDA's own order by speed.
        usual["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return fixed, usual


def _listed(environ: Mapping[str, str], words: SchedulerWords) -> tuple[str, ...]:
    lists = (environ.get(name, "").split() for name in words.device_lists)
    devices = next(filter(None, lists), [])
    return tuple(devices) if all(device.isdecimal() for device in devices) else ()
