"""A virtual environment with a released StudioML client, for the tests that use a real one.

``python -m dev.client_venv VERSION`` makes it below the development cluster's state folder, once,
and prints its path. Exit code 3, with one line, where no Python is there that the client runs on.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from dev.cluster.layout import Layout

# The client's own pins are too loose: it imports modules that later releases of these dropped.
PINS = ("urllib3<2", "requests-toolbelt<1")
PYTHON = "/usr/bin/python3.11"


def make(version: str) -> Path:
    """The environment with studioml==version, made where it is missing."""
    folder = Layout.from_environment().state / f"studioml-{version}"
    done = folder / ".complete"
    if done.exists():
        return folder
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "-q", "--clear", "--seed", "-p", PYTHON, folder], check=True)
    subprocess.run(
        [uv, "pip", "install", "-q", "-p", folder, f"studioml=={version}", *PINS], check=True
    )
    done.touch()
    return folder


if __name__ == "__main__":
    if not shutil.which(PYTHON):
        sys.stderr.write(f"client_venv: the client runs on Python 3.11, {PYTHON} is not there\n")
        sys.exit(3)
    sys.stdout.write(f"{make(sys.argv[1])}\n")
