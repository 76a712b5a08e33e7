"""A folder of code, and an S3 server to put it on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import S3Server, s3_server


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


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server with the buckets of a client's storage and database."""
    with s3_server(tmp_path_factory.mktemp("s3")) as made:
        yield made
