"""munged with a key of its own, by which Slurm's parts know each other."""

from __future__ import annotations

import secrets
import shutil

from . import files, process
from .layout import Layout
from .process import Daemon


def daemon(layout: Layout) -> Daemon:
    """The daemon; key, socket and seed are apart from those of the machine."""
    return Daemon(
        "munged",
        [
            "munged",
            "--foreground",
            f"--key-file={layout.munge / 'key'}",
            f"--socket={layout.munge_socket}",
            f"--pid-file={layout.munge / 'pid'}",
            f"--seed-file={layout.munge / 'seed'}",
            f"--log-file={layout.munge / 'log'}",
            "--num-threads=4",
            # A kill -9 leaves the lock of the socket behind; this takes it over.
            "--force",
        ],
        user="munge",
    )


def start(layout: Layout) -> None:
    """Make the key if there is none, then start and wait."""
    files.folder(layout.munge, "munge")
    key = layout.munge / "key"
    if not key.exists():
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        shutil.chown(key, "munge")
        key.chmod(0o400)
    process.start(layout, daemon(layout))
    encode = ["munge", "--no-input", f"--socket={layout.munge_socket}"]
    process.wait_until(
        layout, "munged", lambda: process.run(encode, check=False).returncode == 0, 60
    )
