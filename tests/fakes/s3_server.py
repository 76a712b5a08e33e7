"""``rclone serve s3`` over a folder of buckets: the S3 server of the tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from dev.queue_servers import free_port
from hpcrunner.client.build import Stores
from hpcrunner.request.model import AwsCredentials, StoreConfig

KEYS = AwsCredentials("access", "s3cr3t-key")
ARTIFACTS, META = "artifacts", "meta"  # the buckets of a client's storage and database


def tool(name: str) -> str:
    """A command of this environment, or the system's; the test is skipped where there is none."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: pip install 'hpcrunner[dev]'")
    return found


@contextlib.contextmanager
def server(argv: Sequence[str], port: int, log: Path, **environ: str) -> Iterator[None]:
    """A server process until the context is left; ready when its port is."""
    env = {**os.environ, **environ}
    with log.open("ab") as out, subprocess.Popen(argv, stdout=out, stderr=out, env=env) as process:
        try:
            until = time.monotonic() + 120
            while True:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                assert process.poll() is None and time.monotonic() < until, log.read_text()
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            process.wait(60)


@dataclass
class S3Server:
    """A server and its folder; ``start`` and ``stop`` keep the port.

    ``options`` are more of rclone's: ``--cert`` makes it https.
    """

    root: Path
    port: int
    options: Sequence[str] = ()
    running: contextlib.ExitStack | None = None

    @property
    def buckets(self) -> Path:
        """Holds a folder for each bucket."""
        return self.root / "buckets"

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"{'https' if '--cert' in self.options else 'http'}://127.0.0.1:{self.port}"

    @property
    def stores(self) -> Stores:
        """A client's storage and database."""
        return Stores(
            StoreConfig("s3", self.endpoint, ARTIFACTS, credentials=KEYS),
            StoreConfig("s3", self.endpoint, META, credentials=KEYS),
        )

    def start(self) -> None:
        """Serve, and come back when it does."""
        argv = [tool("rclone"), "serve", "s3", str(self.buckets)]
        argv += ["--addr", f"127.0.0.1:{self.port}", "--config", "/dev/null"]
        # Not 0s: rclone then turns in a circle for ever, on a whole CPU.
        argv += ["--dir-cache-time", "9ms", "--cache-dir", str(self.root / "cache"), *self.options]
        # One entry of a CSV list, so its comma needs the quotes.
        auth = f'"{KEYS.access_key},{KEYS.secret_access_key}"'
        environ = {"RCLONE_AUTH_KEY": auth, "HOME": str(self.root)}
        with contextlib.ExitStack() as stack:
            stack.enter_context(server(argv, self.port, self.root / "log", **environ))
            self.running = stack.pop_all()

    def stop(self) -> None:
        """End it, if it runs."""
        if self.running is not None:
            self.running.close()
            self.running = None

    def log(self) -> str:
        """What it has printed."""
        return (self.root / "log").read_text()


@contextlib.contextmanager
def s3_server(root: Path, *options: str) -> Iterator[S3Server]:
    """A running server with the buckets of a client's storage and database."""
    made = S3Server(root, free_port(), options)
    for bucket in (ARTIFACTS, META):
        (made.buckets / bucket).mkdir(parents=True)
    made.start()
    try:
        yield made
    finally:
        made.stop()
