"""What is no image, not the right one, or does not come whole: one clear line, nothing left."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tarfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from registry import Registry

from hpcrunner.images.errors import ImageUnusable
from hpcrunner.mounts import Mount
from hpcrunner.request.image import PlannedImage
from hpcrunner.request.location import Location
from hpcrunner.request.reasons import Reason
from hpcrunner.request.trust import ImageRules, parse_pin
from hpcrunner.storage.contract import ArtifactNotFound, StorageError

Cache = Any  # of this folder's conftest
Make = Callable[..., Path]


def stored(path: Path) -> PlannedImage:
    """The image as a client's file store has it."""
    return PlannedImage("s3://store.example/b/a.sif", Location("file", str(path)))


@contextmanager
def proxy(host: str, change: Callable[[bytes, int], bytes]) -> Iterator[str]:
    """A server in front of another. ``change`` sees the bytes of an answer and how many came
    before; it may give others, or b"" to cut the line.
    """
    name, port = host.split(":")

    def answer(client: socket.socket, server: socket.socket) -> None:
        sent = 0
        with suppress(OSError):
            while data := change(server.recv(65536), sent):
                client.sendall(data)
                sent += len(data)
        for end in (client, server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def ask(client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = front.accept()
                server = socket.create_connection((name, int(port)))
                for work in (ask, answer):
                    threading.Thread(target=work, args=(client, server), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as front:
        threading.Thread(target=serve, daemon=True).start()
        yield f"localhost:{front.getsockname()[1]}"


def test_a_pull_that_is_cut_half_way_leaves_nothing_and_may_be_tried_again(
    pulling: Cache, registry: Registry, containers: Any
) -> None:
    repository = f"team/{secrets.token_hex(4)}"
    registry.push_sif(f"{repository}:1", Path(containers.busybox).read_bytes())
    with proxy(registry.host, lambda data, sent: data if sent < 300_000 else b"") as cutting:
        pulling.change(plain_http=(cutting,))
        with pytest.raises(StorageError) as cut:
            pulling.get(f"oras://{cutting}/{repository}:1")
    assert cut.value.reason is Reason.STORE_UNREACHABLE
    assert pulling.files() == []


@pytest.mark.parametrize("kind", ["oras", "docker"])
def test_a_registry_that_sends_other_bytes_than_were_pinned_is_found_out(
    pulling: Cache, registry: Registry, containers: Any, kind: str
) -> None:
    repository = f"team/{secrets.token_hex(4)}"
    content = Path("/bin/busybox").read_bytes()
    if kind == "oras":
        digest = registry.push_sif(repository, Path(containers.busybox).read_bytes())
    else:
        digest = registry.push_docker(repository, {"bin/busybox": content})

    def lie(data: bytes, sent: int) -> bytes:
        return data[:-1] + bytes([data[-1] ^ 1]) if data and sent > 200_000 else data

    with proxy(registry.host, lie) as lying:
        pulling.change(plain_http=(lying,))
        with pytest.raises(StorageError) as wrong:
            pulling.get(f"{kind}://{lying}/{repository}@{digest}")
    assert "\n" not in wrong.value.line()
    assert pulling.files() == []


def test_what_a_registry_has_of_another_kind_is_no_image_and_not_tried_again(
    pulling: Cache, registry: Registry
) -> None:
    repository = f"team/{secrets.token_hex(4)}"
    registry.push_sif(f"{repository}/sif:1", b"no image at all")
    registry.push_docker(f"{repository}/docker:1", {"bin/x": b"x"})
    for reference in ("oras://{}/sif:1", "docker://{}/sif:1", "oras://{}/docker:1"):
        with pytest.raises(StorageError) as refused:
            pulling.get(reference.format(f"{registry.host}/{repository}"))
        assert refused.value.reason is Reason.ARTIFACT_REFUSED, refused.value.line()
        assert str(pulling.folder) not in refused.value.line()
        assert "reached" not in refused.value.line()
    assert pulling.files() == []


def test_bytes_that_are_no_image_are_refused(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "a.sif").write_bytes(b"<html>please log in</html>")
    for image in (stored(tmp_path / "a.sif"), str(tmp_path / "a.sif")):
        with pytest.raises(ImageUnusable, match="not a container image"):
            cache.get(image)
        with pytest.raises(StorageError, match="not a container image") as again:
            cache.get(image)
        assert again.value.exit_code == ImageUnusable.exit_code
    assert cache.files() == []


def test_a_folder_that_is_no_root_is_refused_and_a_sandbox_is_used_where_it_is(
    cache: Cache, tmp_path: Path
) -> None:
    (tmp_path / "torch").mkdir()
    with pytest.raises(StorageError) as refused:
        cache.get(str(tmp_path / "torch"))
    assert refused.value.exit_code in (65, 66)
    (tmp_path / "torch" / "bin").mkdir()
    assert cache.get(str(tmp_path / "torch")) == tmp_path / "torch"
    pinned = ImageRules(pinned=(parse_pin(str(tmp_path / "torch"), "0" * 64),))
    with pytest.raises(ImageUnusable, match="neither digest nor signature"):
        cache.get(str(tmp_path / "torch"), pinned)


def test_a_file_that_is_not_there_is_said_to_be_missing(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFound, match="not on this node"):
        cache.get(str(tmp_path / "none.sif"))


def test_an_image_with_another_digest_than_the_pinned_one_is_refused(
    cache: Cache, image_file: Make
) -> None:
    path = image_file()
    pinned = ImageRules(pinned=(parse_pin(str(path), "0" * 64),))
    with pytest.raises(ImageUnusable, match="this is not the image that is pinned"):
        cache.get(str(path), pinned)
    wrong = PlannedImage("s3://store.example/b/a.sif", Location("file", str(path)), "0" * 64)
    with pytest.raises(ImageUnusable, match="has the digest sha256:"):
        cache.get(wrong)
    assert cache.files() == []


def test_an_object_that_breaks_its_keys_promise_is_refused(
    cache: Cache, tmp_path: Path, image_file: Make
) -> None:
    folder = tmp_path / "blobstore"
    folder.mkdir()
    image_file().rename(folder / ("0" * 64 + ".tar"))
    with pytest.raises(ImageUnusable, match="not what its key promises"):
        cache.get(stored(folder / ("0" * 64 + ".tar")))
    assert cache.files() == []


@pytest.mark.parametrize("members", [[], ["readme"], ["a.sif", "b.sif"]])
def test_a_tar_that_does_not_hold_one_image_is_refused(
    cache: Cache, tmp_path: Path, image_file: Make, members: list[str]
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for member in members:
            content = image_file() if member.endswith(".sif") else Path(__file__)
            tar.add(content, f"./{member}")
    with pytest.raises(ImageUnusable, match="not a container image"):
        cache.get(stored(tmp_path / "a.tar"))
    assert cache.files() == []


@pytest.mark.parametrize(
    ("source", "kind", "reason"),
    [
        ("store", "tmpfs", Reason.JOB_SIDE_FAULT),  # the node's own
        ("oras", "tmpfs", Reason.JOB_SIDE_FAULT),
        ("docker", "lustre", Reason.NO_ROOM),  # would be as full on the next node
        ("store", "fuse.unheard-of", Reason.NO_ROOM),
    ],
)
def test_a_full_disk_is_named_and_nothing_is_left_on_it(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    image_file: Make,
    source: str,
    kind: str,
    reason: Reason,
) -> None:
    """The cache on a file system of two megabytes, by whatever name, and an image of more."""
    monkeypatch.setattr("hpcrunner.mounts.mount_of", lambda path: Mount("/", kind))
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    room = tmp_path / "room"
    room.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(room)])
    if mounted.returncode:
        pytest.skip("this machine mounts nothing")
    try:
        content = secrets.token_bytes(3 << 20)  # does not pack
        if source == "store":
            cache = request.getfixturevalue("cache")
            image = stored(image_file("large.sif", content))
        else:
            cache = request.getfixturevalue("pulling")
            registry = request.getfixturevalue("registry")
            repository = f"team/{secrets.token_hex(4)}"
            if source == "oras":
                registry.push_sif(repository, image_file("large.sif", content).read_bytes())
            else:
                registry.push_docker(repository, {"bin/data": content})
            image = f"{source}://{registry.host}/{repository}"
        cache.folder = room
        with pytest.raises(StorageError, match="no room for it") as full:
            cache.get(image)
        assert (full.value.reason, full.value.exit_code) == (reason, 73)
        assert ("this node's own" in full.value.line()) == (reason is Reason.JOB_SIDE_FAULT)
        assert cache.files() == []
        assert sum(p.stat().st_size for p in room.rglob("*") if p.is_file()) < 4096
    finally:
        subprocess.run(["umount", "-l", str(room)], check=True)


def test_a_node_without_the_runtime_says_so(cache: Cache) -> None:
    cache.change(runtime="/opt/none/bin/apptainer")
    with pytest.raises(StorageError, match=r"container\.program") as missing:
        cache.get("docker://ubuntu")
    assert missing.value.reason is Reason.CONTAINER_FAILED


def test_an_image_named_like_an_option_is_none(cache: Cache) -> None:
    from hpcrunner.request.image import ImageRefused

    for name in ("docker://--help", "oras://--dir=/x/y", "library://-x", "shub://-a/b"):
        with pytest.raises(ImageRefused):
            cache.get(name)


def test_spython_is_loaded_by_the_child_alone() -> None:
    script = """
    import sys
    import hpcrunner.images.ready
    assert not [name for name in sys.modules if name.startswith(("spython", "boto"))]
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
