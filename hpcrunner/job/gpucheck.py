"""Whether the node has the GPUs that the job asked for, looked at before anything is fetched.

First the scheduler's own word, its variables; then the driver's, where nvidia-smi or rocm-smi is
there to give it: a card that fell off the bus, or a driver that hangs, is seen here and not after
hours of work. Who cannot be asked proves nothing. Bounded: ``PATIENCE`` seconds in all.

The drivers' words: ``nvidia-smi --help-query-gpu``; ``rocm-smi --showmeminfo vram --json`` prints
``{"card0": {"VRAM Total Memory (B)": "68702699520", …}, …}``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress

from hpcrunner.errors import HpcrunnerError
from hpcrunner.job.allocation import Allocation, allocation_of
from hpcrunner.request.plan import PlannedExperiment
from hpcrunner.request.reasons import Reason

PATIENCE = 60.0  # a driver that nobody has used lately wakes up card by card
# Cards tell less than their name says: error correction takes up to a sixteenth, drivers some.
_TOLD_OF_NAMED = 7 / 8
_MIB = 1024**2
Row = tuple[str, str, int | None]
_NVIDIA = ("--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits")
_AMD = ("--showmeminfo", "vram", "--json")


class GpusMissing(HpcrunnerError):
    """The node does not have the GPUs that the job asked for, or they do not answer."""

    exit_code = 71  # EX_OSERR
    reason = Reason.GPUS_MISSING


def check_gpus(
    experiment: PlannedExperiment, environ: Mapping[str, str], how: str, host: str
) -> None:
    """Look for an experiment's GPUs. ``how`` is ``full``, ``count`` or ``none``.

    Does nothing for one without GPUs. Raises GpusMissing, naming ``host``.
    """
    if not experiment.gpus or how == "none":
        return
    allocation = allocation_of(environ, experiment.cpus, experiment.gpus, experiment.gpu_vendor)
    missing = allocation.denied
    if not missing and how == "full":
        ask = _missing_on_nvidia if allocation.vendor == "nvidia" else _missing_on_amd
        missing = ask(allocation, experiment.gpus, experiment.gpu_memory, environ)
    if missing:
        asked = f"{experiment.gpus} GPU{'s' if experiment.gpus > 1 else ''}"
        raise GpusMissing(
            f"{asked} asked for, and {missing}",
            where=f"node {host}",
            remedy="tell who looks after the node; the site key gpus.check says what is looked at",
        )


def _missing_on_nvidia(
    allocation: Allocation, count: int, memory: int, environ: Mapping[str, str]
) -> str:
    answer = _ask("nvidia-smi", _NVIDIA, environ)
    if answer is None:
        return ""
    code, text = answer
    if code is None:
        return f"nvidia-smi does not answer within {PATIENCE:.0f} s"
    rows = nvidia_rows(text)
    missing = ""
    if any(map(_is_part, allocation.devices)):
        rows = []  # parts of cards have none
    elif len(rows) < count:
        missing = f"nvidia-smi knows of {len(rows)}"
    else:
        missing = next(filter(None, (_wrong(d, rows, memory) for d in allocation.devices)), "")
    # It fails for a lost card of somebody else's too: what it tells of ours counts before.
    if code and (missing or not rows or not allocation.devices):
        return f"nvidia-smi fails with {code}: {_last(text)}"
    return missing


def _wrong(device: str, rows: Sequence[Row], memory: int) -> str:
    """What is wrong with a device by nvidia-smi's rows, or nothing."""
    found = [row for row in rows if device == row[0] or row[1].startswith(device)]
    if not found:
        return f"nvidia-smi does not know device {device}"
    size = found[0][2]
    if size is not None and size < memory * _TOLD_OF_NAMED:
        return f"device {device} has {size // _MIB} MiB of the {memory // _MIB} asked for"
    return ""


def _missing_on_amd(
    allocation: Allocation, count: int, memory: int, environ: Mapping[str, str]
) -> str:
    answer = _ask("rocm-smi", _AMD, environ)
    if answer is None:
        return ""
    code, text = answer
    if code is None:
        return f"rocm-smi does not answer within {PATIENCE:.0f} s"
    # Its numbers are the bus's, those of the allocation may not be: the cards are counted.
    sizes = amd_sizes(text)
    if not sizes:
        return ""  # it ends with other codes than 0 for small reasons, and its words change
    enough = [size for size in sizes if size >= memory * _TOLD_OF_NAMED]
    if len(enough) < count:
        return f"rocm-smi knows of {len(enough)} with {memory // _MIB} MiB"
    return ""


def nvidia_rows(text: str) -> list[Row]:
    """Index, UUID and bytes of each card; None for a size that the card does not tell."""
    rows = []
    for line in text.splitlines():
        index, _, rest = line.partition(",")
        uuid, _, size = rest.partition(",")
        if index.strip().isdecimal():
            size = size.strip()
            rows.append(
                (index.strip(), uuid.strip(), int(size) * _MIB if size.isdecimal() else None)
            )
    return rows


def amd_sizes(text: str) -> list[int]:
    """Bytes of each card that rocm-smi tells of."""
    start = text.find("{")  # warnings may stand before it
    with suppress(ValueError, RecursionError):
        cards = json.loads(text[start:]) if start >= 0 else {}
        return [
            int(size)
            for name, card in cards.items()
            if name.startswith("card") and isinstance(card, dict)
            for size in [str(card.get("VRAM Total Memory (B)", ""))]
            if size.isdecimal()
        ]
    return []


def _ask(
    program: str, words: tuple[str, ...], environ: Mapping[str, str]
) -> tuple[int | None, str] | None:
    """Exit code (None: none in time) and output of a program, or None where there is no such."""
    path = shutil.which(program, path=environ.get("PATH"))
    if path is None:
        return None
    try:
        process = subprocess.Popen(
            [path, *words],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError:
        return None
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return None, ""
    finally:
        # Not waited for: a process that hangs in a driver cannot be killed either.
        if process.poll() is None:
            process.kill()
    return process.returncode, output.decode("utf-8", "replace")


def _is_part(device: str) -> bool:
    return device.startswith("MIG-")


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no word"
