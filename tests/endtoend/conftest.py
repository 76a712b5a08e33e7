"""One user's whole flow on the real cluster: publish, run a gateway, ask for the status."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SITES = HERE.parents[1] / "site-configs"


@dataclass(frozen=True)
class Flow:
    """A user's folder with a site of its own (spool below it) and a directory queue."""

    cluster: Any
    folder: Path
    scheduler: str

    @property
    def site(self) -> Path:
        return self.folder / "site.yaml"

    def write_site(self, **changes: str) -> None:
        text = (SITES / "development-cluster.yaml").read_text()
        text = text.replace("scheduler: auto", f"scheduler: {self.scheduler}")
        text = text.replace("spool: ~/.hpcrunner", f"spool: {self.folder}/spool")
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        self.site.write_text(text)

    def publish(self, script: str, *work: dict[str, Any]) -> list[str]:
        """Publish work whose scripts are all ``run.py`` with that text; returns the keys."""
        (self.folder / "workspace").mkdir(exist_ok=True)
        (self.folder / "workspace" / "run.py").write_text(script)
        (self.folder / "work.json").write_text(
            json.dumps([{"filename": "run.py", **w} for w in work])
        )
        (self.folder / "publish.py").write_text((HERE / "publish.py").read_text())
        subprocess.run(["chown", "-R", self.cluster.user, self.folder], check=True)
        done = self.cluster.run(
            self.cluster.bin / "python", self.folder / "publish.py", self.folder
        )
        keys: list[str] = done.stdout.split()
        return keys

    def gateway(self, *options: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes] = self.cluster.start(
            self.cluster.bin / "hpcrunner",
            "gateway",
            "--site",
            self.site,
            "--queue-root",
            self.folder / "queue",
            *options,
            log=self.folder / "gateway.log",
            env={"DRMAA_LIBRARY_PATH": self.cluster.drmaa_library or "", **(env or {})},
        )
        end = time.monotonic() + 150
        while not (self.folder / "spool" / "journal.db").exists():
            assert process.poll() is None and time.monotonic() < end, self.log()
            time.sleep(0.1)
        return process

    def finish(self, count: int, *, seconds: float = 240) -> None:
        """Run a gateway until that many experiments have ended."""
        process = self.gateway("--limit-tasks", str(count))
        try:
            code = process.wait(seconds)
        finally:
            process.kill()
        assert code == 0, self.log()

    def status(self, *names: str) -> list[dict[str, Any]]:
        done = self.cluster.run(
            self.cluster.bin / "hpcrunner",
            "status",
            *names,
            "--site",
            self.site,
            "--most",
            "5000",
            "--json",
        )
        told: list[dict[str, Any]] = json.loads(done.stdout)
        return told

    def log(self) -> str:
        return (self.folder / "gateway.log").read_text()


@pytest.fixture(params=["sbatch", pytest.param("drmaa", marks=pytest.mark.drmaa)])
def flow(request: pytest.FixtureRequest, cluster: Any, workdir: Path) -> Flow:
    if request.param == "drmaa" and not cluster.drmaa_library:
        pytest.skip("DRMAA_LIBRARY_PATH names no slurm-drmaa library")
    made = Flow(cluster, workdir, request.param)
    made.write_site()
    return made


@pytest.fixture
def flow_type() -> type[Flow]:
    """For tests that make many flows."""
    return Flow
