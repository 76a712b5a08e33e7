"""Google Cloud Storage, on its emulator."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.request.location import Location
from hpcrunner.request.model import AwsCredentials
from hpcrunner.storage import gcs
from hpcrunner.storage.contract import ArtifactDenied, ArtifactNotFound
from hpcrunner.storage.gcs import GcsMissing, GcsStore


@pytest.fixture
def emulator(google: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    pytest.importorskip("google.cloud.storage", reason="pip install 'hpcrunner[gcs]'")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", google)
    monkeypatch.setattr(gcs, "_clients", {})
    yield


def at(key: str, **more: Any) -> Location:
    return Location("gs", key, **{"bucket": "artifacts", **more})


def read(location: Location) -> bytes:
    with GcsStore().open(location) as found:
        data = found.stream.read()
    assert found.size == len(data)
    return data


def put(location: Location, data: bytes) -> None:
    GcsStore().put(location, io.BytesIO(data), len(data))


def test_what_is_put_is_read_back(emulator: None) -> None:
    put(at("experiments/a b/ü.tar"), b"content")
    assert read(at("experiments/a b/ü.tar")) == b"content"
    put(at("experiments/a b/ü.tar"), b"second")
    assert read(at("experiments/a b/ü.tar")) == b"second"


def test_a_large_object_goes_and_comes_in_chunks(
    emulator: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcs, "CHUNK", 1 << 20)
    data = os.urandom((9 << 20) + 17)
    put(at("large"), data)
    assert read(at("large")) == data


def test_a_missing_object_or_bucket_is_not_found(emulator: None) -> None:
    with pytest.raises(ArtifactNotFound, match="gs://artifacts/missing"):
        read(at("missing"))
    with pytest.raises(ArtifactNotFound):
        read(at("k", bucket="no-such-bucket"))


def test_two_empty_keys_are_anonymous(emulator: None) -> None:
    put(at("k"), b"x")
    assert read(at("k", credentials=AwsCredentials())) == b"x"


def test_no_google_credentials_is_denied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("google.cloud.storage", reason="pip install 'hpcrunner[gcs]'")
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    monkeypatch.setattr(gcs, "_clients", {})
    with pytest.raises(ArtifactDenied, match="no Google credentials"):
        read(at("k"))


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    monkeypatch.setitem(sys.modules, "google.cloud", None)
    for act in (read, lambda place: put(place, b"x")):
        with pytest.raises(GcsMissing, match=r"pip install 'hpcrunner\[gcs\]'"):
            act(at("k"))
