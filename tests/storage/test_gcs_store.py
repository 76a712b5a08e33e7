"""Google Cloud Storage, on its emulator."""

from __future__ import annotations

import http.server
import io
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

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


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[tuple[Path, list[str]]]:
    """A service account's file, and what its token server was asked for."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            body = json.dumps({"access_token": "t0ken", "expires_in": 3600}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    account = {
        "type": "service_account",
        "project_id": "p",
        "private_key_id": "1",
        "private_key": key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode(),
        "client_email": "runner@p.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": f"http://127.0.0.1:{server.server_address[1]}/token",
    }
    file = tmp_path / "account.json"
    file.write_text(json.dumps(account))
    yield file, asked
    server.shutdown()
    server.server_close()


def test_a_service_accounts_file_in_the_environment_is_used(
    google: str, tokens: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("google.cloud.storage", reason="pip install 'hpcrunner[gcs]'")
    from google.oauth2 import service_account

    # Newer ones also ask Google itself where the account may be used.
    beside = "_is_regional_access_boundary_lookup_required"
    monkeypatch.setattr(service_account.Credentials, beside, lambda self: False, raising=False)
    file, asked = tokens
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("API_ENDPOINT_OVERRIDE", google)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    monkeypatch.setattr(gcs, "_clients", {})
    put(at("by-account"), b"content")
    assert read(at("by-account")) == b"content"
    assert asked
    assert "jwt-bearer" in asked[0]


def test_an_object_is_looked_at_with_its_size_and_etag(emulator: None) -> None:
    put(at("looked-at"), b"content")
    look = GcsStore().look(at("looked-at"))
    with GcsStore().open(at("looked-at")) as found:
        assert (look.size, look.etag) == (found.size, found.etag)
    with pytest.raises(ArtifactNotFound):
        GcsStore().look(at("missing"))


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
