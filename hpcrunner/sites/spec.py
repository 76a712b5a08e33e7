"""JobSpec: what one job asks of a scheduler, in no scheduler's dialect."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JobSpec:
    """The shape of a job. Equal specs can travel as one array.

    ``memory`` and ``tmp`` are bytes for the whole job (0: not asked for), ``time_limit`` is
    whole seconds (0: the partition's own). ``gpu_type`` is the scheduler's type name, empty
    for any. ``gpu_shards``: not whole GPUs, but that many parts of one (0: whole ones).
    ``gpu_vendor`` is ``nvidia`` or ``amd``, empty without GPUs. ``directives`` are the
    site's own extra words (``--constraint=skylake``).
    ``exclude`` are names of nodes that earlier attempts failed on. ``disk`` is what the request
    says that its files take, in bytes, whether or not the scheduler is asked for it.
    """

    partition: str = ""
    cpus: int = 1
    memory: int = 0
    time_limit: int = 0
    gpus: int = 0
    gpu_type: str = ""
    gpu_vendor: str = ""
    gpu_shards: int = 0
    tmp: int = 0
    account: str = ""
    qos: str = ""
    requeue: bool = False
    directives: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    disk: int = 0
