"""Whether the node has the GPUs that were asked for: the scheduler's word, and the driver's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpcrunner.gateway.retries import NODE_AT_FAULT
from hpcrunner.job import gpucheck
from hpcrunner.job.gpucheck import GpusMissing, amd_sizes, check_gpus, nvidia_rows
from hpcrunner.request.faults import Fault, fault_of_reason
from hpcrunner.request.plan import PlannedExperiment
from hpcrunner.request.reasons import Reason

if TYPE_CHECKING:
    from tests.job.conftest import Node

GIB = 1024**3
MIB = 1024**2
TWO = {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_ON_NODE": "2"}
A100 = "0, GPU-5bd0e7aa-1, 40960\n1, GPU-77aa0000-2, 40536\n"
Smi = Callable[..., dict[str, str]]


def experiment(gpus: int = 2, memory: int = 0, vendor: str = "nvidia") -> PlannedExperiment:
    asked = PlannedExperiment("i", "k", "k", 1, "t.py", (), ())
    return replace(asked, gpus=gpus, gpu_memory=memory, gpu_vendor=vendor)


@pytest.fixture
def smi(tmp_path: Path) -> Smi:
    """Makes a vendor's program that says something, and the environment in which it is found."""

    def make(
        says: str = "", code: int = 0, name: str = "nvidia-smi", then: str = ""
    ) -> dict[str, str]:
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        (tmp_path / "says").write_text(says)
        lines = [
            f'echo "$@" >> {tmp_path}/asked',
            f"/bin/cat {tmp_path}/says",
            then,
            f"exit {code}",
        ]
        program.write_text("\n".join(["#!/bin/sh", *lines, ""]))
        program.chmod(0o755)
        return {"PATH": str(program.parent)}

    return make


def missing(asked: PlannedExperiment, environ: dict[str, str], how: str = "full") -> str:
    """What is missing, or nothing."""
    try:
        check_gpus(asked, environ, how, "n7")
    except GpusMissing as error:
        assert "\n" not in error.line()
        assert error.line().startswith("node n7: ")
        return error.what
    return ""


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        (TWO, ""),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_GPUS_ON_NODE": "4"}, ""),  # a whole node
        ({"CUDA_VISIBLE_DEVICES": "MIG-a,MIG-b"}, ""),
        ({}, ""),  # nobody says anything: that proves nothing
        ({"SLURM_GPUS_ON_NODE": "2"}, ""),
        ({"CUDA_VISIBLE_DEVICES": "0"}, "CUDA_VISIBLE_DEVICES is 0"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES is empty"),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, "CUDA_VISIBLE_DEVICES is NoDevFiles"),
        ({"SLURM_GPUS_ON_NODE": "1"}, "SLURM_GPUS_ON_NODE is 1"),
    ],
)
@pytest.mark.parametrize("how", ["full", "count"])
def test_the_schedulers_word_on_how_many_there_are(
    environ: dict[str, str], found: str, how: str
) -> None:
    wanted = f"2 GPUs asked for, and {found}" if found else ""
    assert missing(experiment(), {"PATH": "/nowhere", **environ}, how) == wanted
    assert missing(experiment(), environ, "none") == ""


@pytest.mark.parametrize(
    ("devices", "memory", "says", "found"),
    [
        ("0,1", 0, A100, ""),
        ("1,0", 40 * GIB, A100, ""),  # 40536 MiB are sold as 40 GB
        ("GPU-77aa,GPU-5bd0", 40 * 10**9, A100, ""),
        ("0,1", 48 * GIB, A100, "device 0 has 40960 MiB of the 49152 asked for"),
        ("0,1", 0, "0, GPU-5bd0e7aa-1, 40960\n", "nvidia-smi knows of 1"),
        ("2,3", 0, A100, "nvidia-smi does not know device 2"),
        ("0,1", 40 * GIB, "0, GPU-a, [N/A]\n1, GPU-b, [N/A]\n", ""),
        ("0,1", 0, "", "nvidia-smi knows of 0"),
        # Parts of cards have no rows of their own.
        ("MIG-a,MIG-b", 10 * GIB, "0, GPU-a, 40960\n", ""),
    ],
)
def test_nvidias_word_on_each_device(
    smi: Smi, devices: str, memory: int, says: str, found: str
) -> None:
    environ = {**smi(says), "CUDA_VISIBLE_DEVICES": devices}
    told = missing(experiment(memory=memory), environ)
    assert told == (f"2 GPUs asked for, and {found}" if found else "")


def test_a_driver_that_fails_is_quoted(smi: Smi) -> None:
    lost = "Unable to determine the device handle for GPU 0000:41:00.0: GPU is lost.\n"
    told = missing(experiment(1), {**smi(lost, code=15), "CUDA_VISIBLE_DEVICES": "0"})
    assert told == f"1 GPU asked for, and nvidia-smi fails with 15: {lost.strip()}"
    for devices in ("0", "MIG-a"):
        assert "fails with 15" in missing(
            experiment(1), {**smi(lost, code=15), "CUDA_VISIBLE_DEVICES": devices}
        )
    # A card that is lost on the same node, and another job's, is no concern of this one.
    environ = {**smi(A100 + lost, code=15), "CUDA_VISIBLE_DEVICES": "1"}
    assert missing(experiment(1), environ) == ""
    assert "fails with 15" in missing(experiment(1), {**environ, "CUDA_VISIBLE_DEVICES": "2"})


@pytest.mark.parametrize(("name", "vendor"), [("nvidia-smi", "nvidia"), ("rocm-smi", "amd")])
def test_a_driver_that_hangs_costs_no_more_than_the_patience(
    smi: Smi, monkeypatch: pytest.MonkeyPatch, name: str, vendor: str
) -> None:
    monkeypatch.setattr(gpucheck, "PATIENCE", 0.2)
    environ = smi(name=name, then="exec /bin/sleep 600")
    told = missing(experiment(1, vendor=vendor), environ)
    assert told == f"1 GPU asked for, and {name} does not answer within 0 s"


ROCM = '{"card0": {"VRAM Total Memory (B)": "%d"}, "card1": {"VRAM Total Memory (B)": "%d"}}'


@pytest.mark.parametrize(
    ("memory", "says", "found"),
    [
        (0, ROCM % (64 * GIB, 64 * GIB), ""),
        (64 * GIB, "WARNING: low power\n" + ROCM % (64 * GIB - 16 * MIB, 64 * GIB), ""),
        (64 * GIB, ROCM % (64 * GIB, 32 * GIB), "rocm-smi knows of 1 with 65536 MiB"),
        (64 * GIB, "no words that we know", ""),
        (64 * GIB, '{"card0": 3, "system": {}}', ""),
    ],
)
def test_amds_word_on_the_cards(smi: Smi, memory: int, says: str, found: str) -> None:
    environ = {**smi(says, name="rocm-smi"), "ROCR_VISIBLE_DEVICES": "4,5"}
    told = missing(experiment(memory=memory, vendor="amd"), environ)
    assert told == (f"2 GPUs asked for, and {found}" if found else "")


def test_without_gpus_nobody_is_asked_and_who_wants_none_is_not_checked(
    smi: Smi, tmp_path: Path
) -> None:
    environ = {**smi("", code=9), "CUDA_VISIBLE_DEVICES": "0"}
    assert missing(experiment(0), environ) == ""
    assert missing(experiment(1), environ, "none") == ""
    assert missing(experiment(1), environ, "count") == ""
    assert not (tmp_path / "asked").exists()
    assert missing(experiment(1), environ)
    assert (tmp_path / "asked").exists()


def test_what_cannot_be_read_of_the_drivers_words_counts_for_nothing() -> None:
    assert nvidia_rows("No devices were found\n0, GPU-a, x\n3,,\n") == [
        ("0", "GPU-a", None),
        ("3", "", None),
    ]
    for text in ("", "{", "[]", "{}", '{"card0": {"VRAM Total Memory (B)": null}}', "{" * 10**5):
        assert amd_sizes(text) == []


def test_a_node_without_its_gpus_is_at_fault_and_nothing_is_fetched_there(
    node: Node, smi: Smi
) -> None:
    broken = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    node.write(node.script("print('ran')", gpus=1))
    environ = {**smi(broken, code=9), "CUDA_VISIBLE_DEVICES": "0", "SLURM_JOB_ID": "7"}
    assert node.start(**environ).wait(150) == 71
    record = node.record()
    assert record.reason is Reason.GPUS_MISSING
    assert f"nvidia-smi fails with 9: {broken}" in record.text
    assert (record.payload_started_at, node.event("fetching")) == (None, None)
    assert fault_of_reason(record.reason) is Fault.INFRASTRUCTURE
    assert record.reason in NODE_AT_FAULT
