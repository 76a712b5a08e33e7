"""What a payload is given on a real Slurm, and what its client is told by whom."""

from __future__ import annotations

import io
import json
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slurm

RUN = """
import json, os, sys, time
how = sys.argv[1]
if how == "again" and os.environ["STUDIOML_ATTEMPT"] == "1":
    sys.exit("the first attempt fails")
names = ["OMP_NUM_THREADS", "OPENMP", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "GREETING"]
print(json.dumps({n: os.environ.get(n) for n in [*names, "SLURM_CPUS_ON_NODE"]}), flush=True)
time.sleep(600 if how == "long" else 2)
"""


class Store:
    """The store of hand-submitted work, as its client reads it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def record(self, key: str) -> dict[str, Any]:
        paths = [p for p in self._folder.rglob(f"experiments/{key}") if p.is_file()]
        return json.loads(paths[0].read_text()) if paths else {}

    def members(self, key: str, tag: str) -> dict[str, str]:
        (path,) = self._folder.rglob(f"experiments/{key}/{tag}.tar")
        with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as tar:
            return {m.name: tar.extractfile(m).read().decode() for m in tar if m.isfile()}  # type: ignore[union-attr]


def told_by(store: Store, key: str, status: str) -> dict[str, Any]:
    end = time.monotonic() + 120
    while store.record(key).get("status") != status:
        assert time.monotonic() < end, store.record(key)
        time.sleep(0.5)
    return store.record(key)


def test_a_payload_has_what_slurm_gave_it_and_its_client_hears_the_end(
    cluster: Any, workdir: Path, flow_type: Any
) -> None:
    flow = flow_type(cluster, workdir, "sbatch")
    flow.write_site(**{"kill_wait: 5": "kill_wait: 5\nretries: {payload: 1, backoff: 1}"})
    more = ["_results"]
    env = {"GREETING": "to %USER% of %NO_SUCH_NAME%", "CUDA_VISIBLE_DEVICES": "7"}
    usual = {"more_artifacts": more, "environment": env, "cpus": 2}
    gpus, none, again, long = flow.publish(
        RUN,
        {**usual, "args": ["now"], "gpus": 2},
        {**usual, "args": ["now"]},
        {**usual, "args": ["again"], "cpus": 1},
        {**usual, "args": ["long"]},
    )
    store = Store(flow.folder / "store")
    gateway = flow.gateway("--limit-tasks", "4")
    try:
        assert told_by(store, long, "running")["time_started"] > 0
        flow.cluster.run(flow.cluster.bin / "hpcrunner", "cancel", long, "--site", flow.site)
        assert gateway.wait(240) == 0, flow.log()
    finally:
        gateway.kill()
    states = {e["key"]: e["state"] for e in flow.status()}
    assert states == {
        gpus: "SUCCEEDED",
        none: "SUCCEEDED",
        again: "SUCCEEDED",
        long: "CANCELLED",
    }, flow.log()[-3000:]

    def printed(key: str) -> dict[str, str]:
        found: dict[str, str] = json.loads(store.members(key, "output")["./output"].splitlines()[0])
        return found

    given = printed(gpus)
    assert len(given["CUDA_VISIBLE_DEVICES"].split(",")) == 2
    assert given["NVIDIA_VISIBLE_DEVICES"] == given["CUDA_VISIBLE_DEVICES"]
    assert given["OMP_NUM_THREADS"] == given["SLURM_CPUS_ON_NODE"]
    assert given["OPENMP"] == "True"
    assert given["GREETING"] == f"to {cluster.user} of %NO_SUCH_NAME%"
    assert printed(none)["CUDA_VISIBLE_DEVICES"] == "-1"
    for key in (gpus, none, again):
        record = store.record(key)
        assert record["status"] == "finished"
        assert (record["hpcrunner"]["reason"], record["time_finished"] > 0) == ("COMPLETED", True)
        results = json.loads(store.members(key, "_results")["_results.json"])
        assert (results["exit_msg"], results["experiment_id"]) == ("ok", key)
        assert {"output", "_metrics"} <= set(results["artifacts"])
        assert store.members(key, "_metrics")["./_metrics"].startswith("time: ")
    assert store.record(again)["hpcrunner"]["attempt"] == 2
    # The job side leaves the word on a cancellation to the gateway.
    cancelled = store.record(long)
    assert (cancelled["status"], cancelled["hpcrunner"]["reason"]) == ("finished", "CANCELLED")
    assert list((flow.folder / "store").rglob(f"experiments/{long}/_results.tar")) == []
