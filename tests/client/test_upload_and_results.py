"""From a folder to its stores, through the queue, and back."""

from __future__ import annotations

import json
import os
import stat
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.client.build import Stores, Work, local_stores
from hpcrunner.client.publish import PublishError, publish, store_work
from hpcrunner.client.results import (
    InTheWay,
    NoRequest,
    NoSuchArtifact,
    fetch_artifact,
    fetch_results,
    request_in,
    result_locations,
)
from hpcrunner.client.upload import upload_work
from hpcrunner.client.workspace import WorkspaceError
from hpcrunner.request.model import AwsCredentials, Request
from hpcrunner.request.parse import parse_message
from hpcrunner.request.resolve import resolve_artifact, resolve_record
from hpcrunner.storage.contract import ArtifactDenied, ArtifactNotFound, StorageError
from hpcrunner.storage.stores import store_for
from hpcrunner.storage.transfer import upload


def parsed(body: bytes) -> Request:
    request = parse_message(body)
    assert isinstance(request, Request)
    return request


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=["local", "s3"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Stores:
    if request.param == "local":
        return local_stores(str(tmp_path / "st ore"))
    found: Stores = request.getfixturevalue("s3").stores
    return found


def test_the_workspace_comes_back_as_it_went(code: Path, stores: Stores, tmp_path: Path) -> None:
    _, body = upload_work(Work("train.py"), code, stores)
    fetch_artifact(parsed(body), "workspace", tmp_path / "node")
    found = {str(p.relative_to(tmp_path / "node")) for p in (tmp_path / "node").rglob("*")}
    assert found == {"train.py", "sub", "sub/util.py"}
    assert (tmp_path / "node/train.py").read_text() == "print(1)"


def test_the_record_waits_and_is_the_messages_experiment(code: Path, stores: Stores) -> None:
    key, body = upload_work(Work("train.py"), code, stores)
    place = resolve_record(parsed(body))
    assert place is not None
    with store_for(place).open(place) as found:
        record = json.loads(found.stream.read())
    assert record == json.loads(body)["experiment"]
    assert (record["key"], record["status"]) == (key, "waiting")


def test_results_are_found_and_fetched(code: Path, stores: Stores, tmp_path: Path) -> None:
    _, body = upload_work(Work("train.py"), code, stores)
    request = parsed(body)
    places = result_locations(request)
    assert list(places) == ["modeldir", "retval", "output", "tb", "_metrics", "_metadata"]
    with pytest.raises(ArtifactNotFound):
        fetch_artifact(request, "output", tmp_path / "got")
    (tmp_path / "output").write_text("trained")
    upload(tmp_path / "output", places["output"], tmp_path)
    fetch_artifact(request, "output", tmp_path / "got")
    assert (tmp_path / "got/output").read_text() == "trained"


def test_an_unknown_tag_is_named_with_those_there_are(code: Path, tmp_path: Path) -> None:
    _, body = store_work(Work("train.py"), code, tmp_path / "store")
    with pytest.raises(NoSuchArtifact, match=r"'nope'.*it has workspace, modeldir"):
        fetch_artifact(parsed(body), "nope", tmp_path / "got")


def test_all_that_was_saved_comes_into_folders_and_the_rest_is_named(
    code: Path, stores: Stores, tmp_path: Path
) -> None:
    _, body = upload_work(Work("train.py"), code, stores)
    request = parsed(body)
    (tmp_path / "modeldir").mkdir()
    (tmp_path / "modeldir/weights").write_text("0.5")
    upload(tmp_path / "modeldir", result_locations(request)["modeldir"], tmp_path)
    got = dict(fetch_results(request, (), tmp_path / "got"))
    assert [tag for tag, fetched in got.items() if fetched is not None] == ["modeldir"]
    assert set(got) == {"modeldir", "retval", "output", "tb", "_metrics", "_metadata"}
    assert [p.name for p in (tmp_path / "got").iterdir()] == ["modeldir"]
    assert (tmp_path / "got/modeldir/weights").read_text() == "0.5"
    with pytest.raises(ArtifactNotFound):
        list(fetch_results(request, ("retval",), tmp_path / "again"))


def test_nothing_is_written_over_and_nothing_half_is_left(code: Path, tmp_path: Path) -> None:
    _, body = store_work(Work("train.py"), code, tmp_path / "store")
    request = parsed(body)
    mine = tmp_path / "got/workspace/mine"
    mine.parent.mkdir(parents=True)
    mine.touch()
    with pytest.raises(InTheWay, match="got/workspace"):
        list(fetch_results(request, ("workspace",), tmp_path / "got"))
    assert [*mine.parent.iterdir()] == [mine]
    place = resolve_artifact(request, request.artifacts[0])
    assert place is not None
    Path(place.key).write_bytes(Path(place.key).read_bytes()[:700])
    with pytest.raises(StorageError):
        list(fetch_results(request, ("workspace",), tmp_path / "other"))
    assert not (tmp_path / "other/workspace").exists()


@pytest.mark.parametrize("message", [b"", b'{"message": {"payload": "a,b"}}'])
def test_a_message_that_is_gone_or_sealed_names_no_results(message: bytes) -> None:
    with pytest.raises(NoRequest, match=r"experiment 3f2a.*(removed|sealed)"):
        request_in(message, "experiment 3f2a")


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_an_unchanged_workspace_is_stored_once(
    code: Path, s3: Any, tmp_path: Path, kind: str
) -> None:
    own = replace(s3.stores.storage, bucket=f"own-{tmp_path.name[-8:].strip('_').lower()}")
    (s3.buckets / own.bucket).mkdir(exist_ok=True)
    local = local_stores(str(tmp_path / "store"))
    stores = local if kind == "local" else Stores(own, s3.stores.database)
    root = tmp_path / "store/storage" if kind == "local" else s3.buckets / own.bucket
    upload_work(Work("train.py"), code, stores)
    (blob,) = (root / "blobstore").iterdir()
    os.utime(blob, (1, 1))
    before = blob.stat()
    upload_work(Work("train.py", args=("2",)), code, stores)
    assert [*(root / "blobstore").iterdir()] == [blob]
    assert blob.stat().st_ino == before.st_ino, "it was not written again"
    # In a store of files it is as young as its last use: those who tidy it go by that.
    assert (blob.stat().st_mtime > 1) == (kind == "local")
    (code / "train.py").write_text("print('changed')")
    upload_work(Work("train.py"), code, stores)
    assert len([*(root / "blobstore").iterdir()]) == 2


def test_a_cut_copy_of_the_workspace_is_replaced(code: Path, tmp_path: Path) -> None:
    _, body = store_work(Work("train.py"), code, tmp_path / "store")
    request = parsed(body)
    place = resolve_artifact(request, request.artifacts[0])
    assert place is not None
    blob = Path(place.key)
    whole = blob.read_bytes()
    blob.write_bytes(whole[:1000])
    store_work(Work("train.py"), code, tmp_path / "store")
    assert blob.read_bytes() == whole


def test_what_the_ignore_file_names_stays_at_home(code: Path, tmp_path: Path) -> None:
    (code / "data").mkdir()
    (code / "data/huge").touch()
    (code / "link").symlink_to("/etc/passwd")
    (code / ".studioml_ignore").write_text("data/\n/link\n")
    _, body = store_work(Work("train.py"), code, tmp_path / "store")
    request = parsed(body)
    place = resolve_artifact(request, request.artifacts[0])
    assert place is not None
    with tarfile.open(place.key) as tar:
        assert tar.getnames() == ["sub", "sub/util.py", "train.py"]


def test_a_link_that_leads_out_is_an_error_before_anything_is_stored(
    code: Path, tmp_path: Path
) -> None:
    (code / "data").symlink_to("/data/sets")
    with pytest.raises(WorkspaceError, match=r"data: a link that leads out.*\.studioml_ignore"):
        store_work(Work("train.py"), code, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="--folder"):
        store_work(Work("train.py"), tmp_path / "missing", tmp_path / "store")


def test_wrong_keys_end_before_a_record_is_written(code: Path, s3: Any) -> None:
    storage = replace(s3.stores.storage, credentials=AwsCredentials("x", "hidden-secret"))
    before = sorted((s3.buckets / "meta").rglob("*"))
    with pytest.raises(ArtifactDenied) as caught:
        upload_work(Work("train.py"), code, Stores(storage, s3.stores.database))
    assert "hidden-secret" not in str(caught.value)
    assert sorted((s3.buckets / "meta").rglob("*")) == before


def test_records_and_messages_are_private_whatever_the_umask(code: Path, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        key, body = store_work(Work("train.py"), code, tmp_path / "store")
        message = publish(tmp_path / "queues/local_q", body)
    finally:
        os.umask(before)
    record = tmp_path / "store/studioml-meta/experiments" / key
    assert (mode(record), mode(record.parent)) == (0o600, 0o700)
    assert (mode(message), mode(message.parent), mode(tmp_path / "queues")) == (
        0o600,
        0o700,
        0o700,
    )


def test_a_published_message_stands_alone_in_its_queue(tmp_path: Path) -> None:
    queue = tmp_path / "queues/local_q"
    first, second = publish(queue, b"one"), publish(queue, b"two")
    assert sorted(queue.iterdir()) == sorted((first, second))
    assert (first.read_bytes(), second.read_bytes()) == (b"one", b"two")
    assert [*(tmp_path / "queues/.publishing/local_q").iterdir()] == []


def test_the_gateways_queue_takes_what_is_published(tmp_path: Path) -> None:
    from hpcrunner.queues.directory import DirectorySource
    from hpcrunner.queues.matching import QueueFilter

    publish(tmp_path / "local_q", b'{"x": 1}')
    source = DirectorySource(
        tmp_path, QueueFilter(match=".*"), "g1", clock=lambda: 4e9, monotonic=lambda: 0.0
    )
    assert [(d.queue, d.body) for d in source.take(10)] == [("local_q", b'{"x": 1}')]
    source.close()


def test_a_queue_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PublishError, match="queue"):
        publish(tmp_path / "file/local_q", b"x")
