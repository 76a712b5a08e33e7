"""Users of StudioML on the development cluster: the released clients, unchanged.

A user has a home, a config file and queues of their own; what they do is done by the released
client's own Python, run as the cluster's ordinary user. ``users/`` holds their programs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from distance import distant

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
META, ARTIFACTS = "studioml-meta", "studioml-artifacts"
BUCKETS = frozenset({META, ARTIFACTS})


@dataclass(frozen=True)
class Customer:
    """A StudioML user: ``bin`` is their client's, the queues are those beginning with ``queue``."""

    cluster: Any
    bin: Path
    folder: Path
    config: Path
    queue: str

    def studio_run(self, key: str, *words: str, config: Path | None = None) -> str:
        """Submit a script with the client's command; returns the key it got in the end.

        That is another where the client has lost its own message: see users/common.py.
        """
        for name in (key, f"{key}_2", f"{key}_3"):
            # What `studio run` starts; the wrapper itself, a shell script, loses quotes: a b.
            done = self.cluster.run(
                self.bin / "studio-run",
                f"--config={config or self.config}",
                f"--queue={self.queue}",
                f"--experiment={name}",
                "--force-git",
                *words,
                env=self.env,
                cwd=self.folder / "workspace",
                check=False,
            )
            if done.returncode == 0:
                return name
            assert "was never acknowledged" in done.stderr, done.stdout + done.stderr
        raise AssertionError(f"three connections died one after another: {done.stderr}")

    def read(self, key: str, *tags: str, until: str = "") -> dict[str, Any]:
        """The record's status and times, and what ``tags`` hold, as the client reads them.

        ``until`` is a status to wait for.
        """
        told: dict[str, Any] = self.read_all([key], *tags, until=until)[key]
        return told

    def read_all(self, keys: Sequence[str], *tags: str, until: str = "") -> dict[str, Any]:
        """The same of several experiments, by key."""
        words = (self.folder / "back", until, ",".join(keys), *tags)
        done = self.run("read_back", *words)
        line = next(x for x in done.stdout.splitlines() if x.startswith("READ "))
        told: dict[str, Any] = json.loads(line.removeprefix("READ "))
        if until:
            seen = {one["status"] for one in told.values()}
            assert seen == {until}, f"{told}\n{(self.folder / 'gateway.log').read_text()[-4000:]}"
        return told

    def run(self, program: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run one of the programs in ``users/``."""
        done: subprocess.CompletedProcess[str] = self.cluster.run(
            self.bin / "python",
            self.folder / "users" / f"{program}.py",
            self.config,
            *words,
            env=self.env,
            timeout=280,
        )
        return done

    def start(self, program: str, *words: str | Path, log: Path) -> subprocess.Popen[bytes]:
        """Start one of the programs in ``users/``, its output in a log."""
        path = self.folder / "users" / f"{program}.py"
        started: subprocess.Popen[bytes] = self.cluster.start(
            self.bin / "python", path, self.config, *words, log=log, env=self.env
        )
        return started

    @property
    def env(self) -> Mapping[str, str]:
        return {
            "HOME": str(self.folder),
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "TMPDIR": str(self.folder / "tmp"),
        }


@dataclass(frozen=True)
class RunningGateway:
    """A gateway of the cluster's ordinary user, serving one customer's queues."""

    customer: Customer
    process: subprocess.Popen[bytes]

    def log(self) -> str:
        return (self.customer.folder / "gateway.log").read_text()

    def status(self) -> list[dict[str, Any]]:
        cluster = self.customer.cluster
        site = self.customer.folder / "site.yaml"
        done = cluster.run(
            cluster.bin / "hpcrunner", "status", "--site", site, "--most", "5000", "--json"
        )
        told: list[dict[str, Any]] = json.loads(done.stdout)
        return told


@pytest.fixture(scope="session")
def client_bin() -> Callable[[str], Path]:
    """The programs of a released client's version; skips where its Python is not there."""

    def made(version: str) -> Path:
        done = subprocess.run(
            [sys.executable, "-m", "dev.client_venv", version],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
        )
        if done.returncode == 3:
            pytest.skip(done.stderr.strip())
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip()) / "bin"

    return made


@pytest.fixture(scope="session")
def broker_url(cluster: Any) -> Iterator[str]:
    """The broker as the clients see it: see fakes/distance.py."""
    url = str(cluster.facts["rabbitmq"]["url"])
    host, port = cluster.facts["rabbitmq"]["host"], cluster.facts["rabbitmq"]["port"]
    with distant(host, port) as near:
        yield url.replace(f"@{host}:{port}/", f"@127.0.0.1:{near}/")


@pytest.fixture(scope="session")
def new_customer(cluster: Any, client_bin: Any, broker_url: str) -> Callable[..., Customer]:
    """Makes a customer in a folder, with a config that holds ``changes`` too."""
    make_buckets(cluster.facts)

    def made(folder: Path, version: str, **changes: Any) -> Customer:
        bin_ = client_bin(version)
        for name in ("workspace", "tmp", ".studioml"):
            (folder / name).mkdir()
        shutil.copytree(HERE / "users", folder / "users")
        # YAML reads JSON.
        (folder / "config.yaml").write_text(
            json.dumps({**config(cluster.facts, broker_url), **changes})
        )
        subprocess.run(["chown", "-R", cluster.user, folder], check=True)
        return Customer(cluster, bin_, folder, folder / "config.yaml", f"rmq_{folder.name}")

    return made


def make_buckets(facts: Mapping[str, Any]) -> None:
    """Clients that start together would all make a missing bucket, and all but one fail."""
    client = boto3.client(
        "s3",
        endpoint_url=facts["s3"]["endpoint"],
        aws_access_key_id=facts["s3"]["access_key"],
        aws_secret_access_key=facts["s3"]["secret_key"],
        region_name="us-east-1",
    )
    there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for name in BUCKETS - there:
        client.create_bucket(Bucket=name)


def config(facts: Mapping[str, Any], broker_url: str) -> dict[str, Any]:
    """A client's config for the development cluster's servers."""
    keys = {"access_key": facts["s3"]["access_key"], "secret_access_key": facts["s3"]["secret_key"]}
    store = {"type": "s3", "endpoint": facts["s3"]["endpoint"], "credentials": {"aws": keys}}
    return {
        "database": {**store, "bucket": META, "authentication": "none"},
        "storage": {**store, "bucket": ARTIFACTS},
        "cloud": {"queue": {"rmq": broker_url, "persistent": False}},
        "verbose": "info",
        "saveMetricsFrequency": "1m",
        "saveWorkspaceFrequency": "1m",
        "experimentLifetime": "24h",
        "sleep_time": 1,
        "resources_needed": {"cpus": 1, "ram": "256m", "hdd": "1g", "gpus": 0},
    }


@pytest.fixture(scope="session")
def serving() -> Callable[..., Any]:
    """A context with a gateway that serves a customer's queues through one scheduler."""

    @contextmanager
    def gateway(
        customer: Customer, scheduler: str = "auto", *options: str | Path
    ) -> Iterator[RunningGateway]:
        cluster = customer.cluster
        shipped = (REPOSITORY / "site-configs" / "development-cluster.yaml").read_text()
        site = customer.folder / "site.yaml"
        site.write_text(
            shipped.replace("scheduler: auto", f"scheduler: {scheduler}").replace(
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
            f"^{customer.queue}",
            "--limit-idle-duration",  # should nobody be left to end it
            "10m",
            *options,
            log=customer.folder / "gateway.log",
            env={
                "AMQP_URL": cluster.facts["rabbitmq"]["url"],
                "AMQP_MGT_URL": cluster.facts["rabbitmq"]["management_url"],
                "DRMAA_LIBRARY_PATH": cluster.drmaa_library or "",
                "GATEWAY_SECRET": "of the gateway alone",
            },
        )
        try:
            yield RunningGateway(customer, process)
        finally:
            process.terminate()
            process.wait(120)

    return gateway
