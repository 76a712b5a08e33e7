"""One document for each experiment that has ended, in a store of the site's."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from hpcrunner.gateway.experiment import Outcome, State
from hpcrunner.gateway.journal import NextAttempt
from hpcrunner.gateway.metadata_store import MetadataStore, last_metadata, location_of
from hpcrunner.gateway.spool import PRIVATE_FILE
from hpcrunner.request.location import Location
from hpcrunner.request.reasons import Reason
from hpcrunner.storage.contract import StoreUnreachable
from hpcrunner.storage.file import FileStore

FAILED = Outcome(State.FAILED, Reason.PAYLOAD_EXIT, "exit code 3 TOKEN=hush-hush", exit_code=3)
DONE = Outcome(State.SUCCEEDED, Reason.COMPLETED, "completed", exit_code=0, node="n7")


class Away(FileStore):
    """A store that cannot be reached until it is said to be back."""

    def __init__(self) -> None:
        super().__init__(private=True)
        self.back = False
        self.tries = 0

    def put(self, location: Location, body: BinaryIO, size: int) -> None:
        self.tries += 1
        if not self.back:
            raise StoreUnreachable("no answer", where=str(location))
        super().put(location, body, size)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "documents"


@pytest.fixture
def store(parts: Any, folder: Path) -> Callable[..., MetadataStore]:
    def make(**more: Any) -> MetadataStore:
        return MetadataStore(parts.journal, parts.spool, str(folder), **more)

    return make


def take(parts: Any, message: Callable[..., bytes], *keys: str) -> list[str]:
    """Experiments of these keys, taken and in the hands of the scheduler."""
    before = {e.id for e in parts.journal.recent(1000)}
    for key in keys:
        parts.pile.put(message(key))
    parts.intake.drain(1000)
    parts.dispatch.step()
    return [e.id for e in parts.journal.recent(1000) if e.id not in before]


def all_written(store: MetadataStore) -> None:
    store.finish(lambda seconds: time.sleep(0.01), lambda: True)


def documents(folder: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def test_an_ended_experiment_leaves_its_request_its_ending_and_its_metadata(
    parts: Any, message: Callable[..., bytes], store: Callable[..., MetadataStore], folder: Path
) -> None:
    ended, live = take(parts, message, "k1", "k2")
    e = parts.journal.of_id(ended)
    events = parts.spool.events(e.batch, e.task)
    events.parent.mkdir(parents=True, exist_ok=True)
    scraped = {"experiment": {"accuracy": 0.5}, "studioml": {"status": "completed"}}
    lines = [
        {"event": "metadata", "json": '{"experiment": {}}'},
        {"event": "metadata", "json": json.dumps(scraped)},
        {"event": "ended", "reason": "COMPLETED"},
    ]
    events.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"torn "metadata"')
    parts.journal.end([(ended, DONE)])
    all_written(store())
    assert list(documents(folder)) == ["k1"]
    document = documents(folder)["k1"]
    assert document["experiment"]["filename"] == "train.py"
    assert document["config"]["env"] == {"TOKEN": "****"}
    assert document["metadata"] == scraped
    account = document["hpcrunner"]
    assert (account["id"], account["state"], account["reason"]) == (ended, "SUCCEEDED", "COMPLETED")
    assert (account["node"], account["exit_code"], account["job_id"]) == ("n7", 0, e.job_id)
    steps = [step["state"] for step in account["history"]]
    assert (steps[0], steps[-1]) == ("ACCEPTED", "SUCCEEDED")
    path = folder / "k1.json"
    assert path.stat().st_mode & 0o777 == PRIVATE_FILE
    assert "hush-hush" not in path.read_text()
    assert parts.journal.of_id(live).state is State.PENDING


def test_an_attempt_that_was_followed_by_another_is_no_end(
    parts: Any, message: Callable[..., bytes], store: Callable[..., MetadataStore], folder: Path
) -> None:
    (id_,) = take(parts, message, "k")
    parts.journal.remark([id_], "something")
    e = parts.journal.of_id(id_)
    parts.journal.retry([NextAttempt(e, FAILED, e.spec, 0.0, 0, 1, "again")])
    mine = store()
    all_written(mine)
    assert documents(folder) == {}
    parts.journal.end([(id_, FAILED)])
    all_written(mine)
    (document,) = documents(folder).values()
    assert [a["reason"] for a in document["hpcrunner"]["attempts"]] == ["PAYLOAD_EXIT"]
    assert "hush-hush" not in (folder / "k.json").read_text()


def test_what_was_never_run_has_a_document_too(
    parts: Any, store: Callable[..., MetadataStore], folder: Path
) -> None:
    parts.pile.put(b"no json; TOKEN=hush-hush")
    parts.intake.drain(10)
    all_written(store())
    (document,) = documents(folder).values()
    assert document["hpcrunner"]["state"] == "REJECTED"
    assert document["experiment"] is None


def test_a_store_that_was_away_gets_every_document_in_the_end(
    parts: Any, message: Callable[..., bytes], store: Callable[..., MetadataStore], folder: Path
) -> None:
    ids = take(parts, message, *(f"k{n}" for n in range(120)))
    parts.journal.end([(id_, DONE) for id_ in ids])
    now = 0.0
    away = Away()
    mine = store(store=lambda location: away, steady=lambda: now)
    all_written(mine)
    all_written(mine)
    assert away.tries == 1  # it is left alone for a while
    away.back = True
    now = 15.0
    all_written(mine)
    assert len(documents(folder)) == 120


def test_a_gateway_that_starts_again_goes_on_where_it_was(
    parts: Any, message: Callable[..., bytes], store: Callable[..., MetadataStore], folder: Path
) -> None:
    first, second = take(parts, message, "k1", "k2")
    parts.journal.end([(first, DONE)])
    all_written(store())
    (folder / "k1.json").unlink()  # it would come back if all were written again
    parts.journal.end([(second, DONE)])
    parts.start()
    all_written(MetadataStore(parts.journal, parts.spool, str(folder)))
    assert list(documents(folder)) == ["k2"]
    # Another store gets all that is known.
    other = folder.with_name("other")
    all_written(MetadataStore(parts.journal, parts.spool, str(other)))
    assert list(documents(other)) == ["k1", "k2"]


def test_of_a_key_that_ran_again_the_later_ending_stays(
    parts: Any, message: Callable[..., bytes], store: Callable[..., MetadataStore], folder: Path
) -> None:
    (first,) = take(parts, message, "k")
    parts.journal.end([(first, FAILED)])
    parts.clock.forward(1)
    parts.pile.put(message("k", cpus=2))
    parts.intake.drain(1)
    (second,) = (e.id for e in parts.journal.recent(10) if e.id != first)
    mine = store()
    all_written(mine)
    assert documents(folder)["k"]["hpcrunner"]["id"] == first
    parts.journal.end([(second, DONE)])
    parts.journal.drop([first])  # the first one's history goes on
    all_written(mine)
    assert documents(folder)["k"]["hpcrunner"]["id"] == second


def test_a_document_is_not_replaced_by_one_that_tells_less(
    parts: Any, message: Callable[..., bytes], store: Callable[..., MetadataStore], folder: Path
) -> None:
    (id_,) = take(parts, message, "k")
    parts.journal.end([(id_, DONE)])
    all_written(store())
    parts.journal.aging.blank([id_])  # its credentials have aged out
    (parts.spool.root / "metadata-store").unlink()
    all_written(store())
    assert documents(folder)["k"]["experiment"]["filename"] == "train.py"


def test_a_key_that_is_no_file_name_gets_one(
    parts: Any, message: Callable[..., bytes], store: Callable[..., MetadataStore], folder: Path
) -> None:
    (id_,) = take(parts, message, "../../odd key")
    parts.journal.end([(id_, DONE)])
    all_written(store())
    (name,) = documents(folder)
    assert "/" not in name
    assert documents(folder)[name]["hpcrunner"]["key"] == "../../odd key"


def test_nothing_new_is_no_work(
    parts: Any, message: Callable[..., bytes], store: Callable[..., MetadataStore], folder: Path
) -> None:
    (id_,) = take(parts, message, "k")
    parts.journal.end([(id_, DONE)])
    mine = store()
    all_written(mine)
    before = (folder / "k.json").stat().st_mtime_ns
    all_written(mine)
    assert (folder / "k.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("address", "bucket", "key"),
    [
        ("s3://bucket/some/prefix/", "bucket", "some/prefix/n.json"),
        ("s3://bucket", "bucket", "n.json"),
        ("gs://bucket/p", "bucket", "p/n.json"),
        ("/folder/", "", "/folder/n.json"),
    ],
)
def test_an_address_is_a_folder_or_a_bucket(address: str, bucket: str, key: str) -> None:
    found = location_of(address, "n.json")
    assert (found.bucket, found.key) == (bucket, key)
    assert found.scheme == (address[:2] if bucket else "file")


def test_events_without_metadata_tell_none() -> None:
    assert last_metadata(b"") is None
    assert (
        last_metadata(b'{"event": "metadata"}\n{"event": "x", "metadata": 1}\n["metadata"]') is None
    )


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An S3 server that this process finds in its environment, as a gateway would."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3")
    client.create_bucket(Bucket="group")
    yield client
    server.stop()


def test_a_bucket_is_written_with_the_gateways_own_credentials(
    parts: Any, message: Callable[..., bytes], s3: Any
) -> None:
    (id_,) = take(parts, message, "k")
    parts.journal.end([(id_, DONE)])
    all_written(MetadataStore(parts.journal, parts.spool, "s3://group/experiments"))
    found = io.BytesIO(s3.get_object(Bucket="group", Key="experiments/k.json")["Body"].read())
    assert json.load(found)["hpcrunner"]["id"] == id_
