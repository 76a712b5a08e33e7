"""A site's image cache in a folder of the test's, a real registry, and images to pull."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from registry import Registry, is_installed, running_registry

from dev.queue_servers import free_port
from hpcrunner.images.ready import ready_image
from hpcrunner.request.image import ImageSetup, PlannedImage
from hpcrunner.request.plan import NodeSetup
from hpcrunner.request.trust import ANY_IMAGE, ImageRules, named_image


def sif(content: bytes = b"an image") -> bytes:
    """The bytes of a file that looks like a SIF image from outside."""
    return b"#!/usr/bin/env run-singularity\n\0" + b"SIF_MAGIC\0" + content


@dataclass
class Cache:
    """An image cache as jobs use it. ``told`` are the events in order."""

    folder: Path
    runtime: str = "apptainer"
    told: list[tuple[str, str]] = field(default_factory=list)
    setup: ImageSetup = field(init=False)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.setup = ImageSetup(runtime=self.runtime, size=10**9, refresh=86400.0)

    @property
    def images(self) -> Path:
        return self.folder / "images"

    def get(
        self,
        image: str | PlannedImage,
        rules: ImageRules = ANY_IMAGE,
        environ: dict[str, str] | None = None,
        **options: object,
    ) -> Path:
        """The image's path, as the job side asks for it."""
        planned = named_image(image, rules) if isinstance(image, str) else image
        node = NodeSetup("/none", str(self.folder), images=self.setup)
        return Path(
            ready_image(planned, node, {**os.environ, **(environ or {})}, self._tell, **options)  # type: ignore[arg-type]
        )

    def change(self, **settings: object) -> None:
        self.setup = replace(self.setup, **settings)  # type: ignore[arg-type]

    def events(self) -> list[str]:
        return [event for event, _ in self.told]

    def files(self) -> list[str]:
        """The image files there are, and whatever a pull has left half-written."""
        found = [path.name for path in self.images.glob("*.sif*")]
        found += [str(path) for path in (self.images / "pulling").rglob("*")]
        return found + [path.name for path in self.images.glob("*.new")]

    def _tell(self, event: str, text: str) -> None:
        assert "\n" not in text
        with self.lock:
            self.told.append((event, text))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "site cache")


@pytest.fixture
def image_file(tmp_path: Path) -> Callable[..., Path]:
    """``image_file("name", b"content")``: a file that looks like an image."""

    def make(name: str = "a.sif", content: bytes = b"an image") -> Path:
        path = tmp_path / name
        path.write_bytes(sif(content))
        return path

    return make


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry by plain http; skips where this machine has none."""
    if not is_installed():
        pytest.skip("docker-registry is not installed: 'make cluster' installs it")
    with running_registry(tmp_path_factory.mktemp("registry"), free_port()) as found:
        yield found


@pytest.fixture
def pulling(cache: Cache, containers: object, registry: Registry) -> Cache:
    """A cache that pulls from the registry with a real Apptainer."""
    cache.change(runtime=containers.program, plain_http=(registry.host,))  # type: ignore[attr-defined]
    return cache
