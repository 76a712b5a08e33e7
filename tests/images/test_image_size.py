"""A site's bound on one image: held while it comes, by whatever way, and nothing is left of it."""

from __future__ import annotations

import os
import secrets
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from registry import Registry

from hpcrunner.images.errors import ImageUnusable
from hpcrunner.request.image import PlannedImage
from hpcrunner.request.location import Location
from hpcrunner.request.reasons import Reason

Cache = Any  # of this folder's conftest
Make = Callable[..., Path]
MIB = 1 << 20


def refused(cache: Cache, image: str | PlannedImage) -> None:
    with pytest.raises(ImageUnusable) as error:
        cache.get(image)
    line = error.value.line()
    assert "larger than the 4.19 MB that an image may have here" in line
    assert "container.max_image" in line and "\n" not in line
    # It would be as large on another node, and tomorrow.
    assert (error.value.reason, error.value.exit_code) == (Reason.ARTIFACT_REFUSED, 65)
    assert cache.files() == []


def http(port: int) -> PlannedImage:
    url = f"http://127.0.0.1:{port}/a.sif"
    return PlannedImage(url, Location("http", "", endpoint=url))


def test_a_file_that_is_too_large_is_not_copied(
    cache: Cache, tmp_path: Path, image_file: Make
) -> None:
    cache.change(largest=4 * MIB)
    exact = image_file("exact.sif", b"")
    os.truncate(exact, 4 * MIB)
    assert cache.get(stored(exact)).stat().st_size == 4 * MIB
    for path in (cache.images).glob("*.sif"):
        path.unlink()
    for size in (4 * MIB + 1, 1 << 40):  # the second is one hole
        path = image_file("large.sif", b"")
        os.truncate(path, size)
        refused(cache, stored(path))
    # In a tar as the client packs it, and in one that unpacks to more than it is.
    for name, mode in (("a.tar", "w"), ("a.tgz", "w:gz")):
        path = image_file("packed.sif", b"")
        os.truncate(path, 4 * MIB + 1)
        with tarfile.open(tmp_path / name, mode) as tar:  # type: ignore[call-overload]
            tar.add(path, "./packed.sif")
        refused(cache, stored(tmp_path / name))


def stored(path: Path) -> PlannedImage:
    """The image as a client's file store has it."""
    return PlannedImage(f"s3://store.example/b/{path.name}", Location("file", str(path)))


@contextmanager
def endless(head: bytes) -> Iterator[tuple[int, list[int]]]:
    """A web server whose answer never ends, and how many bytes of it were sent."""
    sent = [0]

    def answer(client: socket.socket) -> None:
        with suppress(OSError), client:
            asked = client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + head + b"\r\n")
            while not asked.startswith(b"HEAD"):
                sent[0] += client.send(b"x" * 65536)

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1], sent


@pytest.mark.parametrize("head", [b"", b"Content-Length: 999999999999\r\n"])
def test_a_web_servers_word_on_the_size_is_not_relied_on(cache: Cache, head: bytes) -> None:
    cache.change(largest=4 * MIB)
    with endless(head) as (port, sent):
        refused(cache, http(port))
        assert sent[0] < 40 * MIB  # what lies in buffers among it


@pytest.mark.parametrize("kind", ["oras", "docker", "docker that unpacks"])
def test_a_registrys_image_that_is_too_large_is_given_up(
    pulling: Cache, registry: Registry, image_file: Make, kind: str
) -> None:
    repository = f"team/{secrets.token_hex(4)}"
    if kind == "oras":
        registry.push_sif(repository, image_file("a.sif", os.urandom(6 * MIB)).read_bytes())
    else:
        # What does not pack makes too large an image; zeros make a small one, of too large a file.
        content = os.urandom(6 * MIB) if kind == "docker" else bytes(40 * MIB)
        registry.push_docker(repository, {"bin/data": content})
    pulling.change(largest=4 * MIB)
    refused(pulling, f"{kind.partition(' ')[0]}://{registry.host}/{repository}:latest")
    pulling.change(largest=64 * MIB)
    if kind != "oras":
        (pulling.images / next(p.name for p in pulling.images.glob("*.failed"))).unlink()
        assert pulling.get(f"docker://{registry.host}/{repository}:latest").exists()


def test_a_pull_that_fills_its_folder_with_small_files_is_ended(
    cache: Cache, tmp_path: Path
) -> None:
    """A stand-in for the program, since a real one is done before anybody could look twice."""
    program = tmp_path / "apptainer"
    program.write_text(
        "#!/bin/sh\n"
        "for n in $(seq 200); do head -c 1000000 /dev/zero > $APPTAINER_TMPDIR/$n; done\n"
        f"sleep 600.{os.getpid()}\n"
    )
    program.chmod(0o755)
    cache.change(runtime=str(program), largest=4 * MIB)
    refused(cache, "docker://registry.example/team/image:1")
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # somebody's that has ended meanwhile
            assert f"600.{os.getpid()}".encode() not in path.read_bytes()
