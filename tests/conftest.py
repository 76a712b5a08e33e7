"""The development cluster as tests use it: real parts, an ordinary user, or a skip."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# A machine that is busy with other tests is no failure. A change is judged by the same examples
# as the one before it; new ones are looked for by `pytest --hypothesis-profile=search`.
settings.register_profile(
    "unhurried", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", deadline=None, max_examples=2000)
settings.load_profile("unhurried")

STATE = Path(os.environ.get("HPCRUNNER_DEV_DIR") or "/var/tmp/hpcrunner-dev")


@dataclass(frozen=True)
class Cluster:
    """Facts of the running cluster (its cluster.json), and commands run as its ordinary user."""

    facts: Mapping[str, Any]

    @property
    def user(self) -> str:
        return str(self.facts["user"]["name"])

    @property
    def home(self) -> Path:
        return Path(self.facts["user"]["home"])

    @property
    def bin(self) -> Path:
        """The user's own installation of this checkout: a wheel in a venv."""
        return Path(self.facts["user"]["venv"]) / "bin"

    @property
    def drmaa_library(self) -> str | None:
        library = os.environ.get("DRMAA_LIBRARY_PATH") or self.facts["drmaa"]["library"]
        return str(library) if library and Path(library).exists() else None

    def argv(self, argv: Sequence[str | Path], env: Mapping[str, str] | None = None) -> list[str]:
        """The words that run ``argv`` as the user, in a fresh environment."""
        variables = {
            "HOME": str(self.home),
            "USER": self.user,
            "LOGNAME": self.user,
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            **{k: v for k, v in os.environ.items() if k.startswith(("PIP_", "UV_", "SSL_CERT"))},
            **(env or {}),
        }
        words = [f"{name}={value}" for name, value in variables.items()]
        return ["runuser", "-u", self.user, "--", "env", "-i", *words, *map(str, argv)]

    def run(
        self,
        *argv: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 120,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run as the user and wait; with ``check``, a failure shows what was printed."""
        done = subprocess.run(
            self.argv(argv, env),
            cwd=cwd or self.home,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode:
            raise AssertionError(
                f"{argv} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        return done

    def start(
        self, *argv: str | Path, log: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start as the user, output into a file."""
        with log.open("ab") as out:
            return subprocess.Popen(
                self.argv(argv, env), cwd=self.home, stdout=out, stderr=out, start_new_session=True
            )


def slurm_answers() -> bool:
    """Whether it does within a minute: the machine may be busy with other tests."""
    try:
        return subprocess.run(["sinfo", "-h"], capture_output=True, timeout=60).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The running development cluster; skips where there is none."""
    if os.geteuid() != 0:
        pytest.skip("the development cluster needs root")
    facts = STATE / "cluster.json"
    if not facts.exists():
        pytest.skip(f"no development cluster at {STATE}: 'make cluster' starts it")
    found = Cluster(json.loads(facts.read_text()))
    if not any(slurm_answers() for _ in range(3)):
        pytest.skip("the development cluster is down: 'make cluster' starts it")
    if not (found.bin / "hpcrunner").exists():
        pytest.skip("hpcrunner is not installed for the cluster's user: 'make cluster' does it")
    return found


@dataclass(frozen=True)
class Containers:
    """The development cluster's container runtime, and its images: see docs there."""

    program: str
    busybox: str
    python: str


@pytest.fixture(scope="session")
def containers() -> Containers:
    """A real Apptainer; skips, with the reason, where there is none."""
    facts = STATE / "cluster.json"
    if not facts.exists():
        pytest.skip(f"no development cluster at {STATE}: 'make cluster' starts it")
    found = json.loads(facts.read_text()).get("apptainer", {})
    if not found.get("program"):
        pytest.skip(f"no Apptainer here: {found.get('unavailable')}")
    return Containers(found["program"], found["busybox_image"], found["python_image"])


@pytest.fixture(scope="session")
def new_workdir(cluster: Cluster) -> Callable[[], AbstractContextManager[Path]]:
    """A context with a folder of the ordinary user, gone after it."""

    @contextmanager
    def workdir() -> Iterator[Path]:
        owner = pwd.getpwnam(cluster.user)
        parent = cluster.home / "tests"
        folder = parent / secrets.token_hex(4)
        for made in (parent, folder):
            made.mkdir(mode=0o700, exist_ok=True)
            os.chown(made, owner.pw_uid, owner.pw_gid)
        yield folder
        if not os.environ.get("KEEP"):
            shutil.rmtree(folder, ignore_errors=True)

    return workdir


@pytest.fixture
def workdir(new_workdir: Callable[[], AbstractContextManager[Path]]) -> Iterator[Path]:
    """A folder of the ordinary user, gone after the test."""
    with new_workdir() as folder:
        yield folder


# The jobs of one Slurm get in each other's way; queues of a broker and another DRM do not.
ONE_BY_ONE = frozenset({"slurm", "drmaa", "client"})
SIDE_BY_SIDE = frozenset({"rabbitmq", "s3", "gridengine"})


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses the one cluster's Slurm: such tests run one after another (see dev/test)."""
    for item in items:
        names = {mark.name for mark in item.iter_markers()}
        uses_it = "cluster" in getattr(item, "fixturenames", ()) and not names & SIDE_BY_SIDE
        if names & ONE_BY_ONE or uses_it:
            item.add_marker(pytest.mark.cluster)
