"""Queue servers that need neither root nor the cluster: SQS by moto, Pub/Sub by Google's emulator.

Both keep everything in memory, and are gone with the context they were started in.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

_PATIENCE = 120.0


class NotHere(Exception):
    """This machine has no such server; the text says what is missing."""


@contextlib.contextmanager
def sqs(log: Path) -> Iterator[str]:
    """moto's server; yields its URL, for AWS_ENDPOINT_URL_SQS. Raises NotHere."""
    program = shutil.which("moto_server", path=str(Path(sys.executable).parent))
    if program is None:
        raise NotHere("moto_server is not installed: pip install 'hpcrunner[dev]'")
    port = free_port()
    with _running([program, "-H", "127.0.0.1", "-p", str(port)], port, log):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def pubsub(log: Path) -> Iterator[str]:
    """Google's emulator; yields host:port, for PUBSUB_EMULATOR_HOST. Raises NotHere.

    One that runs already and is named by that variable is used as it is.
    """
    there = os.environ.get("PUBSUB_EMULATOR_HOST")
    if there:
        yield there
        return
    port = free_port()
    with _running([str(emulator()), "--host=127.0.0.1", f"--port={port}"], port, log):
        yield f"127.0.0.1:{port}"


def emulator() -> Path:
    """The emulator's program, in Google Cloud's command-line tools. Raises NotHere."""
    gcloud = shutil.which("gcloud")
    if gcloud is None or shutil.which("java") is None:
        raise NotHere("Google's Pub/Sub emulator needs gcloud and java")
    folder = Path(gcloud).resolve().parents[1] / "platform" / "pubsub-emulator"
    program = folder / "bin" / "cloud-pubsub-emulator"
    if not program.exists():
        raise NotHere(f"Google's Pub/Sub emulator is not in {folder}")
    return program


def free_port() -> int:
    """A port nobody listens on right now, and that nobody is given by the system.

    One of those could be somebody else's before it is used here.
    """
    chance = random.SystemRandom()  # one that no test has seeded
    while True:
        port = chance.randrange(23000, 32000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def _running(argv: Sequence[str], port: int, log: Path) -> Iterator[None]:
    with log.open("wb") as out:
        # A session of its own: the emulator's program is a script around the server.
        process = subprocess.Popen(argv, stdout=out, stderr=out, start_new_session=True)
    try:
        _wait(process, port, log)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    ends = time.monotonic() + _PATIENCE
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        if process.poll() is not None or time.monotonic() > ends:
            raise RuntimeError(f"no server on port {port}:\n{log.read_text()[-2000:]}")
        time.sleep(0.05)
