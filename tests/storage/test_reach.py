"""Whether a store answers, asked of an object that is not there: by a real server, and none."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from dev.queue_servers import free_port
from hpcrunner.request.location import Location
from hpcrunner.request.model import AwsCredentials
from hpcrunner.storage.contract import ArtifactDenied, ArtifactNotFound, StoreUnreachable
from hpcrunner.storage.reach import reach


def test_a_bucket_that_is_there_answers(rclone: Any) -> None:
    (rclone.folder / "there").write_bytes(b"x")
    assert reach(rclone.at("there")) == "answers, and lets read"
    assert reach(rclone.at("not-there")) == "answers"


def test_a_bucket_that_is_not_there_is_told(rclone: Any) -> None:
    with pytest.raises(ArtifactNotFound, match="no such bucket"):
        reach(rclone.at("not-there", bucket="nobodys"))


def test_keys_that_are_not_the_stores_are_told(rclone: Any) -> None:
    with pytest.raises(ArtifactDenied):
        reach(rclone.at("not-there", credentials=AwsCredentials("access", "wrong")))


def test_nobody_at_the_address_is_told_at_once() -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(StoreUnreachable, match="Connection refused"):
        reach(Location("s3", "key", "bucket", endpoint=endpoint))
    with pytest.raises(StoreUnreachable, match="no connection to"):
        reach(Location("http", "", endpoint="http://nowhere.invalid/file"))


def test_a_folder_has_to_be_there(tmp_path: Path) -> None:
    assert reach(Location("file", str(tmp_path / "key"))) == "is there"
    with pytest.raises(ArtifactNotFound, match="no such folder"):
        reach(Location("file", str(tmp_path / "none" / "key")))


def test_a_store_that_takes_connections_and_never_answers_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        for location in (
            Location("http", "", endpoint=f"{address}/file"),
            Location("s3", "key", "bucket", endpoint=address),
        ):
            with pytest.raises(StoreUnreachable, match=r"no answer within 0\.2 s"):
                reach(location, patience=0.2)
