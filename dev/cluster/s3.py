"""An S3 server over a folder: ``rclone serve s3``."""

from __future__ import annotations

from . import files, install, process
from .layout import BUCKET, LOOPBACK, Layout
from .process import Daemon
from .settings import Secrets

# Somebody who owns nothing else; the jobs' user must reach the objects by S3 alone.
USER = "nobody"
REGION = "us-east-1"


def daemon(layout: Layout, secrets: Secrets) -> Daemon:
    """The server; each folder in its root is a bucket."""
    return Daemon(
        "s3",
        [
            str(install.rclone(layout)),
            "serve",
            "s3",
            str(layout.s3 / "buckets"),
            "--addr",
            f"{LOOPBACK}:{layout.s3_port}",
            "--config",
            "/dev/null",
            # A test may look into the folder, or put something there, and expect to agree.
            "--dir-cache-time",
            "1s",
            "--cache-dir",
            str(layout.s3 / "cache"),
        ],
        user=USER,
        # By the environment, because everybody can read a command line. In quotes, because
        # rclone would take the comma for one between two pairs.
        environ={
            "HOME": str(layout.s3),
            "RCLONE_AUTH_KEY": f'"{secrets.s3_access_key},{secrets.s3_secret_key}"',
        },
    )


def start(layout: Layout, secrets: Secrets) -> None:
    """Make the bucket, then start and wait."""
    for path in (layout.s3, layout.s3 / "buckets", layout.s3 / "buckets" / BUCKET):
        files.folder(path, USER, 0o700)
    process.start(layout, daemon(layout, secrets))
    process.wait_until(layout, "s3", lambda: process.port_open(layout.s3_port), 120)
