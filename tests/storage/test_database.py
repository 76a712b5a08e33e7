"""The client's record in each kind of database."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hpcrunner.request.location import Location
from hpcrunner.request.reasons import Reason
from hpcrunner.storage import database
from hpcrunner.storage.contract import ArtifactDenied, StorageError, StoreUnreachable
from hpcrunner.storage.database import Said, change_record, read_record

if TYPE_CHECKING:
    from conftest import S3

SAID = Said("e1", 2, Reason.PAYLOAD_EXIT, "ended with exit code 3; TOKEN=hush")
DOCUMENT = '{"key": "k", "status": "waiting", "args": []}'


@dataclass
class Firebase:
    """A Realtime Database's REST interface over one tree, as its documentation has it."""

    url: str = ""
    tree: dict[str, Any] = field(default_factory=dict)
    methods: list[str] = field(default_factory=list)
    token: str = ""
    status: int = 0

    def at(self, key: str, token: str = "") -> Location:
        query = f"?auth={token}" if token else ""
        return Location("firebase", key, endpoint=f"{self.url}/{key}.json{query}")


@pytest.fixture
def firebase() -> Iterator[Firebase]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            return

        def _do(self) -> None:
            state.methods.append(self.command)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path, _, query = self.path.partition("?")
            key = path.removeprefix("/").removesuffix(".json")
            status = state.status
            if not status and state.token and query != f"auth={state.token}":
                status = 401
            if not status and self.command == "PUT":
                state.tree[key] = json.loads(body)
            if not status and self.command == "PATCH":
                state.tree.setdefault(key, {}).update(json.loads(body))
            answer = json.dumps({"error": "x"} if status else state.tree.get(key)).encode()
            self.send_response(status or 200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_PUT = do_PATCH = _do

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Firebase(f"http://127.0.0.1:{httpd.server_address[1]}")
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield state
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(params=["file", "s3", "firebase"])
def record(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """The address of a record that is not there yet."""
    if request.param == "file":
        return Location("file", str(tmp_path / "meta" / "experiments" / "k"))
    if request.param == "s3":
        s3: S3 = request.getfixturevalue("rclone")
        return s3.at(f"experiments/{tmp_path.name}")
    store: Firebase = request.getfixturevalue("firebase")
    return store.at("experiments/k")


def test_a_record_goes_from_waiting_to_finished_and_says_how(record: Location) -> None:
    assert read_record(record) is None
    change_record(record, DOCUMENT, database.started(10.0))
    running = read_record(record)
    assert running is not None
    assert (running["key"], running["status"], running["time_started"]) == ("k", "running", 10.0)
    change_record(record, DOCUMENT, database.checkpointed(11.0))
    change_record(record, DOCUMENT, database.finished(12.0, SAID))
    over = read_record(record)
    assert over is not None
    assert (over["status"], over["time_finished"]) == ("finished", 12.0)
    assert (over["time_started"], over["time_last_checkpoint"]) == (10.0, 11.0)
    assert over["hpcrunner"] == {
        "experiment": "e1",
        "attempt": 2,
        "reason": "PAYLOAD_EXIT",
        "text": "ended with exit code 3; TOKEN=****",
    }


def test_a_client_that_stopped_it_keeps_its_word(record: Location) -> None:
    change_record(record, DOCUMENT, lambda r: r.update(status="stopped"))
    change_record(record, DOCUMENT, database.waits_again(SAID))
    change_record(record, DOCUMENT, database.finished(12.0, SAID))
    over = read_record(record)
    assert over is not None
    assert (over["status"], over["time_finished"]) == ("stopped", 12.0)


def test_firebase_is_sent_only_what_changed(firebase: Firebase) -> None:
    location = firebase.at("experiments/k")
    change_record(location, DOCUMENT, database.started(1.0))
    firebase.tree["experiments/k"]["owner"] = "somebody"  # between our read and our write
    change_record(location, DOCUMENT, database.waits_again(SAID))
    change_record(location, DOCUMENT, lambda r: None)
    assert firebase.methods == ["GET", "PUT", "GET", "PATCH", "GET"]
    assert firebase.tree["experiments/k"]["owner"] == "somebody"


def test_firebase_takes_the_token_of_the_request_and_no_error_shows_it(firebase: Firebase) -> None:
    firebase.token = "t0k3n"
    change_record(firebase.at("experiments/k", "t0k3n"), DOCUMENT, database.started(1.0))
    with pytest.raises(ArtifactDenied) as caught:
        read_record(firebase.at("experiments/k", "wr0ng"))
    assert "wr0ng" not in caught.value.line()
    assert "wr0ng" not in repr(firebase.at("experiments/k", "wr0ng"))


@pytest.mark.parametrize(
    ("status", "kind"), [(403, ArtifactDenied), (503, StoreUnreachable), (400, StorageError)]
)
def test_what_firebase_refuses_is_named_by_its_kind(
    firebase: Firebase, status: int, kind: type[StorageError]
) -> None:
    firebase.status = status
    with pytest.raises(kind):
        change_record(firebase.at("experiments/k"), DOCUMENT, database.started(1.0))


def test_a_record_that_is_no_object_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "k"
    for content in ("[1]", "{torn"):
        path.write_text(content)
        with pytest.raises(StorageError):
            change_record(Location("file", str(path)), DOCUMENT, database.started(1.0))
        assert path.read_text() == content
