"""Nodes without any network, on the real cluster: the gateway carries all there is to carry."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from s3_server import KEYS, S3Server, s3_server

from hpcrunner.client.build import Work
from hpcrunner.client.publish import publish
from hpcrunner.client.upload import upload_work

pytestmark = pytest.mark.slurm

# Times that are always the same make archives that are the same byte for byte.
RUN = """
import os, time, alpha
def save(text):
    open("../modeldir/weights", "w").write(text)
    for path in ("../modeldir/weights", "../modeldir"):
        os.utime(path, (1e9, 1e9))
save("one")
print("alpha", alpha.version, flush=True)
until = time.monotonic() + 280
while time.monotonic() < until and not os.path.exists(os.environ["END"]):
    time.sleep(0.1)
save("two" * 1000)
open("../retval/retval", "w").write("42")
"""


def an_index(folder: Path) -> Path:
    """One wheel, in a folder."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "alpha-1.5-py3-none-any.whl", "w") as archive:
        archive.writestr("alpha.py", "version = '1.5'\n")
        metadata = "Metadata-Version: 2.1\nName: alpha\nVersion: 1.5\n"
        archive.writestr("alpha-1.5.dist-info/METADATA", metadata)
        wheel = "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr("alpha-1.5.dist-info/WHEEL", wheel)
        archive.writestr("alpha-1.5.dist-info/RECORD", "")
    return folder


class Run:
    """One user's flow with a store that is a server: ``cut`` takes the jobs' network away.

    With ``containers`` the payload runs in one, of a Python that the login node has no other of.
    """

    def __init__(
        self, flow: Any, s3: S3Server, index: str, *, cut: bool, containers: Any = None
    ) -> None:
        self.flow = flow
        self.s3 = s3
        keys = "settle: 15\nretries: {infrastructure: 0}"
        if cut:
            python = flow.folder / "python"
            python.write_text(
                "#!/bin/sh\nexec unshare --user --map-current-user --net "
                f'{flow.cluster.bin}/python "$@"\n'
            )
            python.chmod(0o755)
            keys += f"\nstaging: gateway\ngateway_hosts: [127.0.0.1]\npython: {python}"
        changes = {"settle: 15": keys}
        if containers:
            runtime = f"runtime: apptainer\n  program: {containers.program}"
            changes["runtime: apptainer"] = f"{runtime}\n  pythonenv: install"
        flow.write_site(**changes)
        (flow.folder / "workspace").mkdir()
        (flow.folder / "workspace" / "run.py").write_text(RUN)
        self.end = flow.folder / "end"
        env = {"END": str(self.end), "PIP_FIND_LINKS": index, "UV_FIND_LINKS": index}
        env |= {"PIP_NO_INDEX": "1", "UV_NO_INDEX": "1"}
        work = Work("run.py", packages=("alpha==1.5",), environment=env)
        self.key, body = upload_work(work, flow.folder / "workspace", s3.stores)
        message = json.loads(body)
        message["config"]["saveWorkspaceFrequency"] = "1s"
        if containers:
            image = {"qualified": str(containers.python), "mutable": False}
            message["experiment"]["artifacts"]["_singularity"] = image
            message["experiment"]["pythonver"] = "3.0"
            message["config"]["env"]["END"] = "/"  # which is seen inside
        publish(flow.folder / "queue" / "local_tests", json.dumps(message).encode())
        subprocess.run(["chown", "-R", flow.cluster.user, flow.folder], check=True)
        self.process = flow.gateway("--limit-tasks", "1")

    def object(self, tag: str) -> bytes:
        try:
            path = self.s3.buckets / "artifacts" / "experiments" / self.key / f"{tag}.tar"
            return path.read_bytes()
        except FileNotFoundError:
            return b""

    def members(self, tag: str) -> dict[str, bytes]:
        path = self.s3.buckets / "artifacts" / "experiments" / self.key / f"{tag}.tar"
        # The server writes a file where it stands: a moment's half of one is none yet.
        with contextlib.suppress(FileNotFoundError, tarfile.ReadError), tarfile.open(path) as tar:
            return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]
        return {}

    def record(self) -> dict[str, Any]:
        path = self.s3.buckets / "meta" / "experiments" / self.key
        found: dict[str, Any] = {"status": ""}
        with contextlib.suppress(FileNotFoundError, ValueError):  # half written, as above
            found = json.loads(path.read_bytes())
        return found

    def until(self, holds: Callable[[], object]) -> None:
        end = time.monotonic() + 240
        while not holds():
            assert time.monotonic() < end, self.flow.log()
            time.sleep(0.2)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder as a page of links."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_offline_nodes_give_the_same_results_by_sbatch_and_by_drmaa(
    cluster: Any, workdir: Path, flow_type: Any
) -> None:
    """The gateway dies while the jobs run; the next one brings out what they left."""
    index = str(an_index(workdir / "index"))
    (workdir / "s3").mkdir()

    def flow(name: str, scheduler: str) -> Any:
        folder = workdir / name
        folder.mkdir()
        shutil.chown(folder, cluster.user)
        return flow_type(cluster, folder, scheduler)

    with s3_server(workdir / "s3") as s3:
        online = Run(flow("online", "sbatch"), s3, index, cut=False)
        offline = [Run(flow("sbatch", "sbatch"), s3, index, cut=True)]
        if cluster.drmaa_library:
            offline.append(Run(flow("drmaa", "drmaa"), s3, index, cut=True))
        runs = [online, *offline]
        try:
            for run in runs:  # saved while they run
                run.until(lambda run=run: run.members("modeldir") == {"weights": b"one"})
                run.until(lambda run=run: run.record()["status"] == "running")
            for run in offline:
                plan = next((run.flow.folder / "spool" / "batches").glob("*/plan.json"))
                assert KEYS.secret_access_key not in plan.read_text()
                os.killpg(run.process.pid, signal.SIGKILL)
                run.process.wait(60)
            for run in runs:
                run.end.touch()
            for run in offline:
                records = run.flow.folder / "spool" / "batches"
                run.until(lambda records=records: list(records.glob("*/records/*.json")))
                assert run.members("modeldir") == {"weights": b"one"}, "nobody was there to send it"
                run.process = run.flow.gateway("--limit-tasks", "1", "--limit-idle-duration", "1s")
            for run in runs:
                run.until(lambda run=run: run.record()["status"] == "finished")
                assert run.process.wait(120) == 0, run.flow.log()
        finally:
            for run in runs:
                run.process.kill()
        for run in runs:
            (row,) = run.flow.status(run.key)
            assert (row["state"], row["attempt"]) == ("SUCCEEDED", 1), run.flow.log()
            assert run.members("output") == {"./output": b"alpha 1.5\n"}
            assert run.members("retval") == {"./retval": b"42"}
            assert run.object("modeldir") == online.object("modeldir") != b""
            assert run.record()["hpcrunner"]["reason"] == "COMPLETED"


def test_packages_for_a_container_are_made_in_its_image_where_there_is_a_network(
    cluster: Any, containers: Any, workdir: Path, flow_type: Any
) -> None:
    """The image's Python is asked, and not the one that the request names: there is none such."""
    an_index(workdir / "index")
    (workdir / "s3").mkdir()
    (workdir / "inside").mkdir()
    shutil.chown(workdir / "inside", cluster.user)
    flow = flow_type(cluster, workdir / "inside", "sbatch")
    with s3_server(workdir / "s3") as s3, served(workdir / "index") as index:
        run = Run(flow, s3, index, cut=True, containers=containers)
        try:
            assert run.process.wait(500) == 0, flow.log()
        finally:
            run.process.kill()
        (row,) = flow.status(run.key)
        assert (row["state"], row["attempt"]) == ("SUCCEEDED", 1), flow.log()
        assert run.members("output") == {"./output": b"alpha 1.5\n"}
        assert run.members("retval") == {"./retval": b"42"}
        assert run.record()["hpcrunner"]["reason"] == "COMPLETED"
        (wheels,) = (flow.folder / "spool" / "staging" / "wheels").glob("[0-9a-f]*")
        assert [path.name for path in wheels.glob("*.whl")] == ["alpha-1.5-py3-none-any.whl"]
