"""The released client, unchanged, over real RabbitMQ, Slurm and S3: the customer's view."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.rabbitmq, pytest.mark.s3, pytest.mark.client]

VERSION = "0.0.49"
HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]

TRAIN = """
import os, sys, time
print("args", sys.argv[1:])
print("flag", os.environ["DEMO_FLAG"])
print("secret", os.environ.get("GATEWAY_SECRET"))
os.makedirs("../modeldir", exist_ok=True)
open("../modeldir/weights.txt", "w").write("0.5")
for _ in range(600):
    if os.path.exists(os.environ["GO_FILE"]):
        break
    time.sleep(0.2)
print("trained")
"""


@pytest.fixture(scope="session")
def client_bin() -> Path:
    made = subprocess.run(
        [sys.executable, "-m", "dev.client_venv", VERSION],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    if made.returncode == 3:
        pytest.skip(made.stderr.strip())
    assert made.returncode == 0, made.stderr
    return Path(made.stdout.strip()) / "bin"


@dataclass(frozen=True)
class Customer:
    """A StudioML user with a workspace, a config, and a queue of their own."""

    cluster: Any
    bin: Path
    folder: Path
    queue: str
    config: Path

    def studio_run(self, key: str, *script: str) -> None:
        # What `studio run` starts; the wrapper itself, a shell script, loses quotes: a b.
        self.cluster.run(
            self.bin / "studio-run",
            f"--config={self.config}",
            f"--queue={self.queue}",
            f"--experiment={key}",
            "--force-git",
            *script,
            env=self._env(),
            cwd=self.folder / "workspace",
        )

    def read(self, key: str, *tags: str) -> dict[str, Any]:
        done = self.cluster.run(
            self.bin / "python",
            self.folder / "read_back.py",
            self.config,
            key,
            self.folder / "back",
            *tags,
            env=self._env(),
        )
        line = next(x for x in done.stdout.splitlines() if x.startswith("READ "))
        told: dict[str, Any] = json.loads(line.removeprefix("READ "))
        return told

    def _env(self) -> Mapping[str, str]:
        return {"HOME": str(self.folder), "PATH": f"{self.bin}:/usr/bin:/bin"}


@pytest.fixture
def customer(cluster: Any, workdir: Path, client_bin: Path) -> Customer:
    s3, rabbit = cluster.facts["s3"], cluster.facts["rabbitmq"]
    store = {
        "type": "s3",
        "endpoint": s3["endpoint"],
        "credentials": {
            "aws": {"access_key": s3["access_key"], "secret_access_key": s3["secret_key"]}
        },
    }
    # YAML reads JSON.
    config = {
        "database": {**store, "bucket": "studioml-meta", "authentication": "none"},
        "storage": {**store, "bucket": "studioml-artifacts"},
        "cloud": {"queue": {"rmq": rabbit["url"], "persistent": False}},
        "verbose": "info",
        "saveMetricsFrequency": "1m",
        "saveWorkspaceFrequency": "1m",
        "experimentLifetime": "24h",
        "sleep_time": 1,
        "resources_needed": {"cpus": 1, "ram": "256m", "hdd": "1g", "gpus": 0},
        "env": {"DEMO_FLAG": "x y", "GO_FILE": str(workdir / "go")},
    }
    (workdir / "workspace").mkdir()
    (workdir / "workspace" / "train.py").write_text(TRAIN)
    (workdir / "config.yaml").write_text(json.dumps(config))
    (workdir / "read_back.py").write_text((HERE / "read_back.py").read_text())
    subprocess.run(["chown", "-R", cluster.user, workdir], check=True)
    return Customer(cluster, client_bin, workdir, f"rmq_{workdir.name}", workdir / "config.yaml")


@pytest.fixture(params=["sbatch", pytest.param("drmaa", marks=pytest.mark.drmaa)])
def gateway(
    request: pytest.FixtureRequest, cluster: Any, customer: Customer
) -> Iterator[subprocess.Popen[bytes]]:
    """A gateway of the ordinary user, serving the customer's queue through one scheduler."""
    if request.param == "drmaa" and not cluster.drmaa_library:
        pytest.skip("DRMAA_LIBRARY_PATH names no slurm-drmaa library")
    shipped = (REPOSITORY / "site-configs" / "development-cluster.yaml").read_text()
    site = customer.folder / "site.yaml"
    site.write_text(
        shipped.replace("scheduler: auto", f"scheduler: {request.param}").replace(
            "spool: ~/.hpcrunner", f"spool: {customer.folder}/spool"
        )
    )
    site.chmod(0o644)
    process = cluster.start(
        cluster.bin / "hpcrunner",
        "gateway",
        "--site",
        site,
        "--queue-match",
        f"^{customer.queue}$",
        log=customer.folder / "gateway.log",
        env={
            "AMQP_URL": cluster.facts["rabbitmq"]["url"],
            "AMQP_MGT_URL": cluster.facts["rabbitmq"]["management_url"],
            "DRMAA_LIBRARY_PATH": cluster.drmaa_library or "",
            "GATEWAY_SECRET": "of the gateway alone",
        },
    )
    yield process
    process.terminate()
    process.wait(30)


def wait_for(customer: Customer, key: str, status: str, seconds: float = 240) -> None:
    """Poll the record until it has that status."""
    seen = set()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        seen.add(customer.read(key)["status"])
        if status in seen:
            return
        time.sleep(0.5)
    log = (customer.folder / "gateway.log").read_text()
    raise AssertionError(f"status {status} never seen, only {seen}; gateway:\n{log[-4000:]}")


def test_studio_run_gets_its_results_back(customer: Customer, gateway: Any) -> None:
    key = f"run_{customer.folder.name}"
    customer.studio_run(key, "train.py", "3", "4", "a b")
    wait_for(customer, key, "running")
    (customer.folder / "go").touch()
    wait_for(customer, key, "finished")
    told = customer.read(key, "output", "modeldir", "workspace")
    assert told["time_finished"] >= told["time_started"]
    output = told["output"]["file"]
    assert "args ['3', '4', 'a b']" in output
    assert "flag x y" in output
    assert "secret None" in output
    assert output.rstrip().endswith("trained")
    assert told["modeldir"] == {"folder": ["weights.txt"]}
    assert told["workspace"] == {"folder": ["train.py"]}
