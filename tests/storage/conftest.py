"""Real servers on loopback, and one that misbehaves on request."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from s3_server import ARTIFACTS, KEYS, s3_server, server, tool

from dev.queue_servers import free_port
from hpcrunner.request.location import Location
from hpcrunner.request.model import AwsCredentials

BUCKET = ARTIFACTS


@dataclass(frozen=True)
class S3:
    """An S3 server and the folder of its bucket."""

    endpoint: str
    folder: Path

    def at(self, key: str, **more: Any) -> Location:
        usual = {"bucket": BUCKET, "endpoint": self.endpoint, "credentials": KEYS}
        return Location("s3", key, **{**usual, **more})


@contextlib.contextmanager
def rclone_server(root: Path, *options: str) -> Iterator[S3]:
    """``rclone serve s3`` over a folder, with more options: ``--cert`` makes it https."""
    with s3_server(root, *options) as made:
        yield S3(made.endpoint, made.buckets / BUCKET)


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A real S3 server."""
    with rclone_server(tmp_path_factory.mktemp("rclone")) as made:
        yield made


@pytest.fixture(scope="session")
def serve_s3() -> Any:
    """What starts further ones."""
    return rclone_server


@dataclass(frozen=True)
class Guarded(S3):
    """An S3 server that checks rights: one user may do all, another nothing."""

    allowed: AwsCredentials
    powerless: AwsCredentials

    def at(self, key: str, **more: Any) -> Location:
        return super().at(key, **{"credentials": self.allowed, **more})


@contextlib.contextmanager
def moto_server(root: Path, **environ: str) -> Iterator[tuple[str, Any, Any]]:
    """moto, with a private and a public object; its endpoint and clients of S3 and IAM."""
    import boto3
    from botocore.config import Config

    port = free_port()
    argv = [tool("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with server(argv, port, root / "log", **environ):
        endpoint = f"http://127.0.0.1:{port}"
        s3, iam = (
            boto3.client(
                service,
                endpoint_url=endpoint,
                region_name="us-east-1",
                aws_access_key_id="setup",
                aws_secret_access_key="setup",
                config=Config(s3={"addressing_style": "path"}),
            )
            for service in ("s3", "iam")
        )
        s3.create_bucket(Bucket=BUCKET)
        s3.put_object(Bucket=BUCKET, Key="private.bin", Body=b"private")
        s3.put_object(Bucket=BUCKET, Key="public.bin", Body=b"public", ACL="public-read")
        yield endpoint, s3, iam


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """moto, which checks every signature and right once the set-up below is through."""
    root = tmp_path_factory.mktemp("moto")
    with moto_server(root, INITIAL_NO_AUTH_ACTION_COUNT="8") as (endpoint, _, iam):
        keys = []
        for name in ("allowed", "powerless"):
            iam.create_user(UserName=name)
            made = iam.create_access_key(UserName=name)["AccessKey"]
            keys.append(AwsCredentials(made["AccessKeyId"], made["SecretAccessKey"]))
        policy = {"Statement": {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}}
        iam.put_user_policy(
            UserName="allowed",
            PolicyName="all",
            PolicyDocument=json.dumps({"Version": "2012-10-17", **policy}),
        )
        yield Guarded(endpoint, root, *keys)


@pytest.fixture(scope="session")
def open_moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """moto that lets every key in and, unlike the checking one, knows anonymous requests."""
    root = tmp_path_factory.mktemp("open-moto")
    with moto_server(root) as (endpoint, _, _):
        yield S3(endpoint, root)


@dataclass
class Fault:
    """What the faulty server does to one request. ``cut`` ends the body after that many bytes."""

    status: int = 0
    cut: int = -1
    location: str = ""
    body: bytes = b""


@dataclass
class FaultyServer:
    """Serves ``content`` at any path, with ranges; each queued fault spoils one request."""

    port: int
    content: bytes = b""
    etag: str = '"v1"'
    ranges: bool = True
    faults: list[Fault] = field(default_factory=list)
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    """While it is not set, answers to GET wait after their first bytes."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fail(self, *statuses: int, location: str = "", body: bytes = b"") -> None:
        """Answer the next requests with these statuses."""
        self.faults += [Fault(status=code, location=location, body=body) for code in statuses]

    def cut(self, *counts: int) -> None:
        """Break the next answers off after so many bytes of their bodies."""
        self.faults += [Fault(cut=count) for count in counts]

    def s3(self, key: str = "k") -> Location:
        return Location("s3", key, bucket=BUCKET, endpoint=self.url, credentials=KEYS)

    def http(self, path: str = "/data.bin") -> Location:
        return Location("http", path.lstrip("/"), endpoint=self.url + path)


@pytest.fixture
def faulty() -> Iterator[FaultyServer]:
    """A web server that breaks connections and answers errors as its test says."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: object) -> None:
            return

        def do_HEAD(self) -> None:
            state.seen.append((f"HEAD {self.path}", dict(self.headers)))
            fault = state.faults.pop(0) if state.faults else Fault()
            self.send_response(fault.status or 200)
            if not fault.status:
                self.send_header("ETag", state.etag)
            elif fault.location:
                self.send_header("Location", fault.location)
            self.send_header("Content-Length", "0" if fault.status else str(len(state.content)))
            self.end_headers()

        def do_PUT(self) -> None:
            state.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            self.do_GET()

        def do_GET(self) -> None:
            state.seen.append((f"{self.command} {self.path}", dict(self.headers)))
            fault = state.faults.pop(0) if state.faults else Fault()
            if fault.status:
                self.send_response(fault.status)
                if fault.location:
                    self.send_header("Location", fault.location)
                self.send_header("Content-Length", str(len(fault.body)))
                self.end_headers()
                self.wfile.write(fault.body)
                return
            start = 0
            wanted = self.headers.get("Range", "")
            guard = self.headers.get("If-Match") or self.headers.get("If-Range") or state.etag
            if wanted and state.ranges:
                if guard != state.etag:
                    self.send_response(412)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                start = int(wanted.removeprefix("bytes=").partition("-")[0])
            body = state.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("ETag", state.etag)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if fault.cut < 0:
                self.wfile.write(body[:1])
                self.wfile.flush()
                state.gate.wait(300)
                self.wfile.write(body[1:])
                return
            self.wfile.write(body[: fault.cut])
            self.wfile.flush()
            # A reset, as from a dying load balancer: pending data are thrown away.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            self.close_connection = True

    class Quiet(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *words: object) -> None:
            return  # clients that hang up are what its tests are about

    httpd = Quiet(("127.0.0.1", 0), Handler)
    state = FaultyServer(httpd.server_address[1])
    state.gate.set()
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield state
    state.gate.set()
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(scope="session")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The Google Cloud Storage emulator's URL; its bucket is made."""
    port = free_port()
    log = tmp_path_factory.mktemp("gcs") / "log"
    argv = [tool("gcp-storage-emulator"), "start", "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--in-memory", "--default-bucket", BUCKET]
    with server(argv, port, log):
        yield f"http://127.0.0.1:{port}"
