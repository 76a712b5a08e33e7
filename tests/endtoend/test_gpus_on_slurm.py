"""A node whose GPUs are not there, on the real cluster: found before the work, and kept off."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.slurm

# Two nodes with cards without a type, and for each job a folder of ours first in its PATH.
SITE = """partitions:
  - name: gpu
    gpus: [{{memory: 16G, count: 4}}]
prologue: ["export PATH={folder}/bin:$PATH"]
retries: {{backoff: 1}}
"""
# The driver of the node that asks first has lost a card, and stays so.
NVIDIA_SMI = """#!/bin/sh
mkdir {folder}/lost 2>/dev/null && echo $SLURMD_NODENAME > {folder}/lost/node
[ "$(cat {folder}/lost/node)" != $SLURMD_NODENAME ] || {{ echo GPU is lost; exit 15; }}
for card in 0 1 2 3; do echo $card, GPU-$card, 16160; done
"""
RUN = "import os; print(os.environ['SLURMD_NODENAME'], os.environ['CUDA_VISIBLE_DEVICES'])"


def test_a_node_without_its_gpus_is_left_for_another(flow: Any) -> None:
    text = flow.site.read_text()
    own = SITE.format(folder=flow.folder)
    flow.site.write_text(
        text[: text.index("partitions:")] + own + text[text.index("\ndefaults:") :]
    )
    program = flow.folder / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(NVIDIA_SMI.format(folder=flow.folder))
    program.chmod(0o755)
    (key,) = flow.publish(RUN, {"gpus": 2})
    flow.finish(1)
    (told,) = flow.status(key)
    assert (told["state"], told["attempt"]) == ("SUCCEEDED", 2), flow.log()[-3000:]
    lost = (flow.folder / "lost" / "node").read_text().strip()
    assert {lost, told["node"]} == {"n0", "n1"}
    (first,) = told["attempts"]
    assert (first["reason"], first["node"]) == ("GPUS_MISSING", lost)
    assert "nvidia-smi fails with 15: GPU is lost" in first["text"]
