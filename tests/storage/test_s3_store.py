"""S3 against real servers, and against one that fails."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.request.location import Location
from hpcrunner.request.model import AwsCredentials
from hpcrunner.storage import resume, s3
from hpcrunner.storage.contract import (
    ArtifactDenied,
    ArtifactNotFound,
    StorageError,
    StoreUnreachable,
)
from hpcrunner.storage.s3 import S3Store


def read(location: Location) -> bytes:
    with S3Store().open(location) as found:
        data = found.stream.read()
    assert found.size in (-1, len(data))
    return data


def put(location: Location, data: bytes) -> None:
    S3Store().put(location, io.BytesIO(data), len(data))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without their pauses."""
    monkeypatch.setattr(resume, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def test_what_is_put_is_read_back(rclone: Any) -> None:
    place = rclone.at("blobstore/a.tar")
    put(place, b"content")
    assert read(place) == b"content"
    assert (rclone.folder / "blobstore/a.tar").read_bytes() == b"content"


def test_an_empty_object_is_an_object(rclone: Any) -> None:
    put(rclone.at("empty"), b"")
    assert read(rclone.at("empty")) == b""


def test_an_object_is_replaced(rclone: Any) -> None:
    put(rclone.at("twice"), b"a longer first content")
    put(rclone.at("twice"), b"second")
    assert read(rclone.at("twice")) == b"second"


def test_a_large_object_goes_in_parts(rclone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PARTS_FROM", 5 << 20)
    data = os.urandom(18 << 20)
    put(rclone.at("large"), data)
    assert read(rclone.at("large")) == data


def test_an_upload_in_parts_that_fails_leaves_no_parts_behind(
    open_moto: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Torn(io.BytesIO):
        """A file whose disk fails half way."""

        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 9 << 20:
                raise OSError(5, "Input/output error")
            return super().read(size)

    monkeypatch.setattr(s3, "PARTS_FROM", 5 << 20)
    place = open_moto.at("torn")
    with pytest.raises(StoreUnreachable):
        S3Store().put(place, Torn(bytes(18 << 20)), 18 << 20)
    left = s3._client(place).list_multipart_uploads(Bucket="artifacts")
    assert left.get("Uploads", []) == []
    with pytest.raises(ArtifactNotFound):
        read(place)


def test_only_the_announced_bytes_go_and_the_file_stays_open(rclone: Any) -> None:
    body = io.BytesIO(b"headBODYtail")
    body.seek(4)
    S3Store().put(rclone.at("window"), body, 4)
    assert read(rclone.at("window")) == b"BODY"
    assert not body.closed


def test_odd_keys_arrive_as_they_are(rclone: Any) -> None:
    key = "experiments/ü 1+2%20&=?#/out put.tar"
    put(rclone.at(key), b"x")
    assert read(rclone.at(key)) == b"x"
    assert (rclone.folder / key).exists()


def test_a_missing_object_is_not_found(rclone: Any, moto: Any) -> None:
    for store in (rclone, moto):
        with pytest.raises(ArtifactNotFound, match="no such object") as caught:
            read(store.at("nowhere/at.all"))
        assert "artifacts/nowhere/at.all" in str(caught.value)


def test_a_missing_bucket_is_not_found(rclone: Any, moto: Any) -> None:
    for store in (rclone, moto):
        with pytest.raises(ArtifactNotFound, match="bucket"):
            read(store.at("k", bucket="no-such-bucket"))
        with pytest.raises(ArtifactNotFound, match="bucket"):
            put(store.at("k", bucket="no-such-bucket"), b"x")


def test_wrong_keys_are_denied_and_not_told(rclone: Any) -> None:
    wrong = AwsCredentials("nobody", "w0rd-that-must-not-show", "t0ken-neither")
    for act in (read, lambda place: put(place, b"x")):
        with pytest.raises(ArtifactDenied) as caught:
            act(rclone.at("k", credentials=wrong))
        told = f"{caught.value} {caught.value!r} {caught.value.__context__!r}"
        assert "w0rd" not in told.partition("None")[0]
        assert "t0ken" not in str(caught.value)
        assert rclone.endpoint.partition("://")[2] in str(caught.value)


def test_a_wrong_secret_is_denied(rclone: Any) -> None:
    with pytest.raises(ArtifactDenied, match=r"SignatureDoesNotMatch|AccessDenied"):
        read(rclone.at("k", credentials=AwsCredentials("access", "wrong")))


def test_keys_without_the_right_are_denied(moto: Any) -> None:
    assert read(moto.at("private.bin")) == b"private"
    with pytest.raises(ArtifactDenied, match="AccessDenied"):
        read(moto.at("private.bin", credentials=moto.powerless))
    with pytest.raises(ArtifactDenied, match="AccessDenied"):
        put(moto.at("private.bin", credentials=moto.powerless), b"overwritten")
    assert read(moto.at("private.bin")) == b"private"


def test_unknown_keys_and_wrong_secrets_are_denied(moto: Any) -> None:
    for wrong in (AwsCredentials("unknown", "x"), AwsCredentials(moto.allowed.access_key, "x")):
        with pytest.raises(ArtifactDenied):
            read(moto.at("private.bin", credentials=wrong))


def test_two_empty_keys_read_what_is_public_and_nothing_else(open_moto: Any) -> None:
    assert read(open_moto.at("public.bin", credentials=AwsCredentials())) == b"public"
    with pytest.raises(ArtifactDenied):
        read(open_moto.at("private.bin", credentials=AwsCredentials()))


def test_anonymous_requests_carry_no_signature(faulty: Any) -> None:
    faulty.content = b"x"
    place = Location("s3", "k", bucket="b", endpoint=faulty.url, credentials=AwsCredentials("", ""))
    assert read(place) == b"x"
    ((line, headers),) = faulty.seen
    assert line == "GET /b/k"
    assert "Authorization" not in headers


def test_session_token_and_region_are_sent(faulty: Any) -> None:
    faulty.content = b"x"
    keys = AwsCredentials("a", "b", "the-token", "eu-north-1")
    read(Location("s3", "k", bucket="b", endpoint=faulty.url, credentials=keys))
    ((_, headers),) = faulty.seen
    assert headers["X-Amz-Security-Token"] == "the-token"
    assert "/eu-north-1/s3/aws4_request" in headers["Authorization"]


def test_without_credentials_the_default_chain_is_asked(
    faulty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-the-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    faulty.content = b"x"
    read(Location("s3", "k", bucket="b", endpoint=faulty.url))
    assert "from-the-environment" in faulty.seen[0][1]["Authorization"]


def test_no_credentials_anywhere_is_denied(
    faulty: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(s3, "_clients", {})
    faulty.fail(403)
    with pytest.raises(ArtifactDenied, match="no credentials in the request"):
        read(Location("s3", "k", bucket="b", endpoint=faulty.url))
    # What is public needs none.
    faulty.content = b"public"
    assert read(Location("s3", "k", bucket="b", endpoint=faulty.url)) == b"public"
    with pytest.raises(ArtifactDenied, match="no credentials in the request"):
        put(Location("s3", "k", bucket="b", endpoint=faulty.url), b"x")


ACCESS_DENIED = b"<Error><Code>AccessDenied</Code></Error>"


def test_what_is_public_is_read_by_those_whose_keys_are_denied(faulty: Any) -> None:
    faulty.content = b"public"
    faulty.fail(403, body=ACCESS_DENIED)
    assert read(faulty.s3()) == b"public"
    assert ["Authorization" in headers for _, headers in faulty.seen] == [True, False]
    faulty.fail(403, 403, body=ACCESS_DENIED)
    with pytest.raises(ArtifactDenied, match="AccessDenied"):
        read(faulty.s3())
    faulty.fail(403, body=ACCESS_DENIED)
    with pytest.raises(ArtifactDenied):
        put(faulty.s3(), b"x")
    assert len(faulty.seen) == 5


def test_a_put_sends_no_checksums_that_old_servers_refuse(faulty: Any) -> None:
    put(faulty.s3(), b"x")
    ((_, headers),) = faulty.seen
    assert not [name for name in headers if "checksum" in name.lower() or "trailer" in name.lower()]
    assert "aws-chunked" not in headers.get("Content-Encoding", "")


def test_server_errors_are_retried(faulty: Any, hasty: None) -> None:
    faulty.content = b"content"
    faulty.fail(500, 503)
    assert read(faulty.s3()) == b"content"


def test_a_server_that_only_fails_is_unreachable(faulty: Any, hasty: None) -> None:
    faulty.fail(*[503] * 50)
    with pytest.raises(StoreUnreachable, match="503"):
        read(faulty.s3())
    assert len(faulty.seen) == s3.MOST_ATTEMPTS


def test_a_denial_is_not_retried(faulty: Any) -> None:
    faulty.fail(*[403] * 50)
    with pytest.raises(ArtifactDenied):
        read(faulty.s3())
    assert len(faulty.seen) == 1


def test_a_failing_put_is_retried_with_the_same_bytes(faulty: Any, hasty: None) -> None:
    faulty.fail(500)
    put(faulty.s3(), b"x" * 1000)
    assert [line for line, _ in faulty.seen] == ["PUT /artifacts/k"] * 2
    assert faulty.bodies == [b"x" * 1000] * 2


def test_nobody_at_the_port_is_unreachable(hasty: None) -> None:
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://user:hidden@127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StoreUnreachable, match="EndpointConnectionError") as caught:
            read(Location("s3", "k", bucket="b", endpoint=endpoint, credentials=AwsCredentials()))
    assert "hidden" not in str(caught.value)


def test_a_broken_connection_goes_on_where_it_was(faulty: Any, hasty: None) -> None:
    faulty.content = os.urandom(3 << 20)
    faulty.cut(1_000_000, 700_000)
    assert read(faulty.s3()) == faulty.content
    ranges = [headers.get("Range") for _, headers in faulty.seen]
    assert ranges[0] is None
    assert len(ranges) == 3
    assert all(headers["If-Match"] == faulty.etag for _, headers in faulty.seen[1:])


def test_a_connection_that_always_breaks_is_unreachable(faulty: Any, hasty: None) -> None:
    faulty.content = b"x" * 1000
    faulty.cut(*[0] * 50)
    with pytest.raises(StoreUnreachable, match="after 0 of 1000 bytes"):
        read(faulty.s3())


def test_an_object_replaced_while_it_is_read_is_not_mixed(faulty: Any, hasty: None) -> None:
    faulty.content = b"a" * (3 << 20)
    faulty.cut(1 << 20)
    with S3Store().open(faulty.s3()) as found:
        assert found.etag == "v1"
        faulty.etag = '"v2"'
        with pytest.raises(StorageError, match="replaced"):
            while found.stream.read(1 << 16):
                pass


def test_the_rest_is_not_taken_from_a_server_that_sends_all_again(faulty: Any, hasty: None) -> None:
    faulty.content = b"a" * (3 << 20)
    faulty.ranges = False
    faulty.cut(1 << 20)
    with pytest.raises(StorageError, match="cannot send the rest"):
        read(faulty.s3())


def test_an_endpoint_that_is_no_url_is_said_to_be_none() -> None:
    with pytest.raises(ArtifactNotFound, match="endpoint"):
        read(Location("s3", "k", bucket="b", endpoint="no url", credentials=AwsCredentials()))


def test_clients_are_kept_per_endpoint_and_credentials(
    rclone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_clients", {})
    place = rclone.at("kept")
    put(place, b"x")
    read(place)
    assert len(s3._clients) == 1
    with pytest.raises(ArtifactDenied):
        read(rclone.at("kept", credentials=AwsCredentials("a", "b")))
    assert len(s3._clients) == 2


_SLOW_FIRST_LOAD = """
import sys, threading, time
from hpcrunner.request.location import Location
from hpcrunner.request.model import AwsCredentials
from hpcrunner.storage import s3

def slowly(frame, event, argument):
    if not frame.f_code.co_filename.endswith("boto3/__init__.py"):
        return None
    time.sleep(0.05)
    return slowly

def fetch():
    try:
        with s3.S3Store().open(Location("s3", "k", "b", "http://127.0.0.1:1", "", keys)):
            pass
    except s3.StoreUnreachable:
        reached.append(True)

keys, reached = AwsCredentials("a", "b"), []
s3.MOST_ATTEMPTS = 1
threading.settrace(slowly)
first, second = threading.Thread(target=fetch), threading.Thread(target=fetch)
first.start()
while "boto3.session" not in sys.modules:
    time.sleep(0.0001)
second.start()
first.join()
second.join()
sys.exit(0 if len(reached) == 2 else "a thread found boto3 half loaded")
"""


def test_artifacts_that_are_fetched_at_once_load_boto3_once_and_whole() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SLOW_FIRST_LOAD], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
