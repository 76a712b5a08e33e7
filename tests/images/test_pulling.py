"""Images of a real registry, pulled by a real Apptainer through spython."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from registry import Registry, running_registry

from dev.queue_servers import free_port
from hpcrunner.crashpoint import IMAGE_POINTS
from hpcrunner.images.cache import cached_images
from hpcrunner.request.image import PlannedImage
from hpcrunner.request.reasons import Reason
from hpcrunner.request.trust import ImageRules, parse_pin
from hpcrunner.storage.contract import StorageError

Cache = Any  # of this folder's conftest


@pytest.fixture
def busybox(containers: Any) -> bytes:
    return Path(containers.busybox).read_bytes()


def name() -> str:
    """A repository of this test's own."""
    return f"team/{secrets.token_hex(4)}"


def test_an_image_of_a_registry_is_pulled_once_and_runs(
    pulling: Cache, registry: Registry, busybox: bytes, containers: Any
) -> None:
    repository = name()
    registry.push_sif(f"{repository}:1", busybox)
    reference = f"oras://{registry.host}/{repository}:1"
    image = pulling.get(reference)
    assert image.read_bytes() == busybox
    assert pulling.get(reference) == image
    assert registry.pulls(repository) == 1
    assert pulling.events() == ["pulling", "pulled"]
    assert [entry.reference for entry in cached_images(pulling.images)] == [reference]
    assert not list((pulling.images / "pulling").iterdir())
    # Nothing of it went into the user's home or to others.
    assert (image.stat().st_mode & 0o777, pulling.images.stat().st_mode & 0o777) == (0o500, 0o700)


def test_a_docker_image_becomes_an_image_file(
    pulling: Cache, registry: Registry, containers: Any
) -> None:
    repository = name()
    files = {"bin/busybox": Path("/bin/busybox").read_bytes(), "which": b"the first"}
    digest = registry.push_docker(f"{repository}:1", files)
    rules = ImageRules(pinned=(parse_pin(f"docker://{registry.host}/{repository}:1", digest),))
    image = pulling.get(f"docker://{registry.host}/{repository}:1", rules)
    registry.push_docker(f"{repository}:1", {**files, "which": b"the second"})
    run = [containers.program, "exec", "-u", str(image), "/bin/busybox", "cat", "/which"]
    done = subprocess.run(run, capture_output=True, text=True, cwd=pulling.folder)
    assert done.stdout == "the first", done.stderr
    # The pin is of what stood there: the new image under that tag is not it.
    assert pulling.get(f"docker://{registry.host}/{repository}:1", rules) == image
    assert registry.pulls(repository) == 1


def test_fifty_that_want_one_image_pull_it_once(
    pulling: Cache, registry: Registry, busybox: bytes
) -> None:
    repository = name()
    registry.push_sif(f"{repository}:1", busybox)
    reference = f"oras://{registry.host}/{repository}:1"
    with ThreadPoolExecutor(50) as jobs:
        found = set(jobs.map(lambda _: pulling.get(reference), range(50)))
    assert len(found) == 1
    assert registry.pulls(repository) == 1
    assert pulling.events().count("pulling") == 1


def test_a_failure_is_told_to_all_who_waited_and_not_repeated(
    pulling: Cache, registry: Registry
) -> None:
    repository = name()

    def fails(_: int) -> StorageError:
        with pytest.raises(StorageError) as error:
            pulling.get(f"oras://{registry.host}/{repository}:1")
        return error.value

    with ThreadPoolExecutor(20) as jobs:
        errors = list(jobs.map(fails, range(20)))
    assert {error.reason for error in errors} == {Reason.ARTIFACT_NOT_FOUND}
    assert len({error.line() for error in errors}) == 1
    assert repository in errors[0].line()
    assert pulling.events().count("pulling") == 1
    assert pulling.files() == []


def test_a_registry_that_is_down_is_a_failure_of_the_infrastructure(pulling: Cache) -> None:
    with pytest.raises(StorageError) as error:
        pulling.get(f"oras://localhost:{free_port()}/team/image:1")
    assert error.value.reason is Reason.STORE_UNREACHABLE
    assert pulling.files() == []


def test_a_registrys_password_goes_by_the_environment_and_only_there(
    cache: Cache, containers: Any, tmp_path: Path, busybox: bytes
) -> None:
    import bcrypt

    secret = "pa55 w0rd"
    hashed = bcrypt.hashpw(secret.encode(), bcrypt.gensalt(4)).decode()
    (tmp_path / "users").write_text(f"alice:{hashed}\n")
    with running_registry(
        tmp_path / "locked", free_port(), password_file=str(tmp_path / "users")
    ) as locked:
        cache.change(runtime=containers.program, plain_http=(locked.host,))
        locked.password = ("alice", secret)
        locked.push_sif("team/secret:1", busybox)
        reference = f"oras://{locked.host}/team/secret:1"
        with pytest.raises(StorageError) as denied:
            # Whoever's these are, they are not for any registry that a request may name.
            mine = {"APPTAINER_DOCKER_USERNAME": "alice", "APPTAINER_DOCKER_PASSWORD": secret}
            cache.get(reference, environ=mine)
        assert denied.value.reason is Reason.ARTIFACT_DENIED
        image = cache.get(PlannedImage(reference, user="alice", password=secret))
        assert image.read_bytes() == busybox
        # It is in the cache now, for those who have the password.
        with pytest.raises(StorageError):
            cache.get(PlannedImage(reference, user="alice", password="another"))
    assert secret not in str(cache.told) + str(denied.value)
    kept = [p.read_bytes() for p in cache.images.rglob("*") if p.is_file() and p.suffix != ".sif"]
    assert secret.encode() not in b"".join(kept)


def test_a_tag_is_pulled_anew_after_its_time_and_running_jobs_keep_theirs(
    pulling: Cache, registry: Registry, busybox: bytes
) -> None:
    repository = name()
    reference = f"oras://{registry.host}/{repository}:latest"
    registry.push_sif(f"{repository}:latest", busybox)
    old = pulling.get(reference)
    registry.push_sif(f"{repository}:latest", busybox + b"newer")
    assert pulling.get(reference) == old
    pulling.change(refresh=0.0)
    new = pulling.get(reference)
    assert (new != old, old.exists()) == (True, True)
    assert new.read_bytes() == busybox + b"newer"


def test_a_tag_that_cannot_be_looked_up_again_leaves_the_image_that_was(
    pulling: Cache, containers: Any, tmp_path: Path, busybox: bytes
) -> None:
    with running_registry(tmp_path / "mortal", free_port()) as mortal:
        mortal.push_sif("team/image:1", busybox)
        reference = f"oras://{mortal.host}/team/image:1"
        image = pulling.get(reference)
    pulling.change(refresh=0.0)
    assert pulling.get(reference) == image
    assert pulling.events()[-1] == "image_kept"
    pulling.told.clear()
    assert pulling.get(reference) == image
    assert pulling.events() == []  # not every job asks again


SCRIPT = """
import os, sys
from hpcrunner.images.ready import ready_image
from hpcrunner.request.image import ImageSetup, PlannedImage
from hpcrunner.request.plan import NodeSetup
program, host, folder, reference = sys.argv[1:]
setup = ImageSetup(program, size=10**9, plain_http=(host,))
ready_image(PlannedImage(reference), NodeSetup("/none", folder, images=setup), os.environ, print)
"""


def puller(cache: Cache, host: str, reference: str, **environ: str) -> subprocess.Popen[bytes]:
    """A process that pulls that image."""
    words = [sys.executable, "-c", SCRIPT, cache.setup.runtime, host, str(cache.folder), reference]
    return subprocess.Popen(words, env={**os.environ, **environ}, stdout=subprocess.DEVNULL)


def test_whoever_dies_in_a_pull_leaves_nothing_that_counts(
    pulling: Cache, registry: Registry, busybox: bytes, tmp_path: Path
) -> None:
    """Killed with the image whole and nameless, then with the image named and not known."""
    repository = name()
    registry.push_sif(f"{repository}:1", busybox)
    reference = f"oras://{registry.host}/{repository}:1"
    for point in IMAGE_POINTS:
        crash = f"{point}:1:{tmp_path}"
        assert puller(pulling, registry.host, reference, HPCRUNNER_CRASH=crash).wait(150) == -9
    image = pulling.get(reference)
    assert image.read_bytes() == busybox
    assert pulling.files() == [image.name]


@contextmanager
def silent_registry() -> Iterator[tuple[str, threading.Event]]:
    """One that never answers; and what is set when somebody asks it."""
    asked = threading.Event()

    def listen() -> None:
        with suppress(OSError):
            kept.append(server.accept())
            asked.set()

    kept: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=listen, daemon=True).start()
        yield f"localhost:{server.getsockname()[1]}", asked


def all_gone(word: str) -> bool:
    """Whether every process with that word in its command line has ended, sooner or later."""
    until = time.monotonic() + 150
    while time.monotonic() < until:
        lines = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                lines.append(path.read_bytes())
        if not any(word.encode() in line for line in lines):
            return True
        time.sleep(0.05)
    return False


def test_a_pull_that_is_broken_off_leaves_nothing_running(pulling: Cache) -> None:
    class Stop(Exception):
        pass

    with silent_registry() as (host, asked):
        pulling.change(plain_http=(host,))

        def pause(seconds: float) -> None:
            if asked.is_set():
                raise Stop
            time.sleep(seconds)

        with pytest.raises(Stop):
            pulling.get(f"oras://{host}/team/image:1", pause=pause)
        assert all_gone(f"oras://{host}")
    assert pulling.files() == []


def test_when_the_one_who_pulls_is_killed_the_pull_ends_too(pulling: Cache) -> None:
    with silent_registry() as (host, asked):
        process = puller(pulling, host, f"oras://{host}/team/image:1")
        assert asked.wait(150)
        process.kill()
        process.wait()
        assert all_gone(f"oras://{host}")
