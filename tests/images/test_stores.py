"""Images in artifact stores and on shared file systems."""

from __future__ import annotations

import hashlib
import http.server
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.images import store
from hpcrunner.request.image import PlannedImage
from hpcrunner.request.location import Location
from hpcrunner.request.model import AwsCredentials
from hpcrunner.storage.contract import ArtifactDenied, StorageError, StoreUnreachable
from hpcrunner.storage.s3 import S3Store

Cache = Any  # of this folder's conftest
Make = Callable[..., Path]


class Web(http.server.SimpleHTTPRequestHandler):
    """A folder by http, with an ETag, for those who know the password."""

    got: list[str]

    def do_GET(self) -> None:
        self.got.append(self.path)
        super().do_GET()

    def send_head(self) -> Any:
        if self.headers.get("Authorization") != "Basic YWxpY2U6c2VjcmV0":  # alice:secret
            return self.send_error(401)
        return super().send_head()

    def end_headers(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.is_file():
            self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Asked(http.server.BaseHTTPRequestHandler):
    """What it gives depends on the query; it has no ETags."""

    image: Path

    def do_GET(self) -> None:
        body = self.image.read_bytes() + self.path.partition("&X-Amz")[0].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """An address, and the paths that were asked for."""
    got: list[str] = []
    folder = tmp_path / "web"
    folder.mkdir()

    def handler(*words: Any) -> Web:
        return type("Handler", (Web,), {"got": got})(*words, directory=str(folder))

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", got
    server.shutdown()


def test_an_image_behind_a_password_comes_once_for_those_who_have_it(
    cache: Cache, tmp_path: Path, image_file: Make, web: tuple[str, list[str]]
) -> None:
    host, got = web
    content = image_file("web/a.sif").read_bytes()

    def image(word: str) -> PlannedImage:
        location = Location("http", "a.sif", endpoint=f"http://alice:{word}@{host}/a.sif")
        return PlannedImage(f"http://{host}/a.sif", location)

    path = cache.get(image("secret"))
    assert path.read_bytes() == content
    assert cache.get(image("secret")) == path
    assert got.count("/a.sif") == 1
    with pytest.raises(ArtifactDenied):
        cache.get(image("wrong"))
    image_file("web/a.sif", b"another").touch()
    assert cache.get(image("secret")) != path
    assert path.read_bytes() == content  # a job may be running from it


@pytest.mark.s3
def test_an_image_in_an_s3_bucket_comes_with_the_requests_own_keys(
    cache: Cache, cluster: Any, image_file: Make
) -> None:
    s3 = cluster.facts["s3"]
    keys = AwsCredentials(s3["access_key"], s3["secret_key"])
    key = f"tests/images/{os.getpid()}.{time.time_ns()}.sif"
    location = Location("s3", key, s3["bucket"], s3["endpoint"], credentials=keys)
    file = image_file(content=os.urandom(1 << 20))
    with file.open("rb") as body:
        S3Store().put(location, body, file.stat().st_size)
    image = PlannedImage(f"s3://host/{s3['bucket']}/{key}", location)
    path = cache.get(image)
    assert path.name == f"{hashlib.sha256(file.read_bytes()).hexdigest()}.sif"
    assert cache.get(image) == path
    assert cache.events() == ["pulling", "pulled"]
    stranger = Location(
        "s3", key, s3["bucket"], s3["endpoint"], credentials=AwsCredentials("no", "body")
    )
    with pytest.raises(StorageError):
        cache.get(PlannedImage(image.reference, stranger))


def test_an_image_that_the_client_packed_is_unpacked(
    cache: Cache, tmp_path: Path, image_file: Make
) -> None:
    """`studio run --container a.sif` uploads the file as a tar with one member."""
    content = image_file().read_bytes()
    with tarfile.open(tmp_path / "packed", "w") as tar:
        tar.add(tmp_path / "a.sif", "./a.sif")
    digest = hashlib.sha256((tmp_path / "packed").read_bytes()).hexdigest()
    (tmp_path / "blobstore").mkdir()
    place = (tmp_path / "packed").rename(tmp_path / "blobstore" / f"{digest}.tar")
    path = cache.get(PlannedImage(str(place), Location("file", str(place))))
    assert path.read_bytes() == content
    assert cache.files() == [path.name]


def test_an_image_that_nobody_wants_any_more_or_that_takes_for_ever_is_given_up(
    cache: Cache, image_file: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CancelledError(Exception):
        pass

    def pause(seconds: float) -> None:
        raise CancelledError

    image = PlannedImage("s3://store.example/b/a.sif", Location("file", str(image_file())))
    with pytest.raises(CancelledError):
        cache.get(image, pause=pause)
    assert cache.files() == []
    monkeypatch.setattr(store, "LONGEST", -1.0)
    with pytest.raises(StoreUnreachable, match="given up after"):
        cache.get(image)
    assert cache.files() == []


def test_a_file_is_run_from_where_it_lies(cache: Cache, image_file: Make) -> None:
    path = image_file()
    assert cache.get(str(path)) == path
    assert not cache.images.exists()


def test_what_the_gateway_has_laid_ready_is_not_looked_for_again(
    cache: Cache, image_file: Make
) -> None:
    ready = image_file()
    image = PlannedImage("docker://docker.io/library/ubuntu:latest", path=str(ready))
    assert cache.get(image) == ready
    assert ready.with_suffix(".used").exists()
    ready.unlink()
    with pytest.raises(StorageError, match="not in the cache any more"):
        cache.get(image)


def test_an_image_of_singularity_2_is_one_too(cache: Cache, tmp_path: Path) -> None:
    for name, content in (
        ("bare.img", b"hsqs" + bytes(100)),
        ("launched.simg", b"#!/usr/bin/env run-singularity\nhsqs" + bytes(100)),
    ):
        (tmp_path / name).write_bytes(content)
        assert cache.get(str(tmp_path / name)) == tmp_path / name


def test_nobody_gets_the_image_of_another_query(cache: Cache, image_file: Make) -> None:
    handler = type("Handler", (Asked,), {"image": image_file()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/get"
    try:
        paths = [
            cache.get(f"{address}?{query}")
            for query in ("id=mine", "id=theirs", "id=mine&X-Amz-Signature=1")
        ]
    finally:
        server.shutdown()
        server.server_close()
    assert [path.read_bytes()[-7:] for path in paths] == [b"id=mine", b"=theirs", b"id=mine"]
    assert cache.events().count("pulled") == 2  # a signature makes no other object of it
