"""Batches and sites that are the same on every machine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.batch.batch import Batch
from hpcrunner.sites.site import Site
from hpcrunner.sites.spec import JobSpec

FOLDER = Path("/home/user/.hpcrunner/batches/0123456789ab")


@pytest.fixture
def batch() -> Callable[..., Batch]:
    """A batch of a spec's fields; ``size`` and ``folder`` are the batch's own."""

    def make(size: int = 1, folder: Path = FOLDER, **spec: Any) -> Batch:
        return Batch("0123456789ab", JobSpec(**spec), size, folder)

    return make


@pytest.fixture
def site() -> Callable[..., Site]:
    """A site of its keys."""

    def make(**keys: Any) -> Site:
        return Site.model_validate({"name": "here", "python": "/opt/hpcrunner/bin/python", **keys})

    return make
