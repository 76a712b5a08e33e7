"""Folders of credentials: what is added starts its queues, what is removed stops them, and a bad
one costs only itself.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcrunner.errors import HpcrunnerError
from hpcrunner.privatefile import SecretRefused, read_private
from hpcrunner.queues.aws import AwsKeys, access_of_folder
from hpcrunner.queues.contract import Delivery, Served
from hpcrunner.queues.errors import OptionInvalid
from hpcrunner.queues.google import EMULATOR
from hpcrunner.queues.sources import QueueOptions, sources_from
from hpcrunner.queues.watched import PERIOD, WatchedSource, files_below, folders_in

if TYPE_CHECKING:
    from conftest import Clock

SECRET = "wJalrXUtnFEMI"
CONFIG = "[default]\nregion = us-west-2\n"
KEYS = f"[default]\naws_access_key_id = AKID\naws_secret_access_key = {SECRET}\n"


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    return folder


# One set of AWS credentials.


@pytest.mark.parametrize(
    "files",
    [
        {"config": CONFIG, "credentials": KEYS},
        {"a": KEYS, "b": "REGION=us-west-2"},
        {"config": "  region =us-west-2  \nregion=later", "credentials": KEYS},
        {"config": CONFIG, "credentials": KEYS + "region = eu-west-1\n"},
        {"zz": CONFIG, "aa": KEYS + "[other]\naws_access_key_id = no\n", ".hidden": "x"},
    ],
)
def test_two_files_are_a_set_of_credentials(tmp_path: Path, files: dict[str, str]) -> None:
    access = access_of_folder(write(tmp_path / "team", **files))
    assert access.label == "aws_team"
    assert access.region == "us-west-2"
    assert access.keys == AwsKeys("AKID", SECRET)


def test_a_session_token_is_used(tmp_path: Path) -> None:
    text = f"{KEYS}aws_session_token = tok/en==\n"
    access = access_of_folder(write(tmp_path / "team", config=CONFIG, credentials=text))
    assert access.keys is not None
    assert access.keys.session_token == "tok/en=="


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "0 file"),
        ({"credentials": KEYS}, "1 file"),
        ({"config": CONFIG, "credentials": KEYS, "more": ""}, "3 file"),
        ({"config": "", "credentials": KEYS}, "region="),
        ({"config": "region=", "credentials": KEYS}, "region="),
        ({"config": CONFIG, "credentials": ""}, "profile default"),
        ({"config": CONFIG, "credentials": KEYS.replace("default", "other")}, "profile default"),
        ({"config": CONFIG, "credentials": f"[default]\n{SECRET}\n"}, "profile default"),
        ({"config": CONFIG, "credentials": f"aws_secret_access_key={SECRET}"}, "profile default"),
    ],
)
def test_a_folder_that_is_none_is_one_line_without_a_secret(
    tmp_path: Path, files: dict[str, str], said: str
) -> None:
    with pytest.raises(OptionInvalid) as refused:
        access_of_folder(write(tmp_path / "team", **files))
    line = refused.value.line()
    assert said in line
    assert str(tmp_path / "team") in line
    assert SECRET not in line
    assert "\n" not in line


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602])
def test_credentials_that_others_may_use_are_refused_with_the_remedy(
    tmp_path: Path, mode: int
) -> None:
    folder = write(tmp_path / "team", config=CONFIG, credentials=KEYS)
    (folder / "credentials").chmod(mode)
    with pytest.raises(SecretRefused) as refused:
        access_of_folder(folder)
    assert f"chmod 600 {folder}/credentials" in refused.value.line()


def test_a_secret_is_a_bounded_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "large").write_bytes(bytes(2000))
    (tmp_path / "large").chmod(0o600)
    (tmp_path / "link").symlink_to(tmp_path / "large")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none"):
        with pytest.raises(SecretRefused):
            read_private(path)
    with pytest.raises(SecretRefused, match="larger"):
        read_private(tmp_path / "link", largest=1999)
    assert len(read_private(tmp_path / "link", largest=2000)) == 2000


@pytest.mark.skipif(os.geteuid() != 0, reason="makes files of root")
def test_a_credential_of_systemd_may_show_the_group_that_its_acl_makes(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("k")
    path.chmod(0o440)
    assert read_private(path, environ={"CREDENTIALS_DIRECTORY": str(tmp_path)}) == b"k"
    with pytest.raises(SecretRefused):
        read_private(path, environ={"CREDENTIALS_DIRECTORY": "/elsewhere"})
    path.chmod(0o444)
    with pytest.raises(SecretRefused):
        read_private(path, environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_whatever_is_in_the_two_files_there_is_an_answer_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, first: bytes, second: bytes
) -> None:
    folder = tmp_path_factory.mktemp("team")
    for name, content in (("a", first), ("b", second)):
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)
    try:
        access_of_folder(folder)
    except HpcrunnerError as error:
        assert "\n" not in error.line()
    shutil.rmtree(folder)


# Watching.


class Pile:
    """A source with messages in hand."""

    def __init__(self, name: str, text: str) -> None:
        if text == "bad":
            raise OptionInvalid("bad", where=name)
        self.name = f"pile {name} {text}"
        self.messages = [Delivery("q", f"{name} {n}".encode()) for n in range(3)]
        self.accepted: list[bytes] = []
        self.returned: list[bytes] = []
        self.closed = False

    def take(self, most: int) -> list[Delivery]:
        taken, self.messages = self.messages[:most], self.messages[most:]
        return taken

    def accept(self, deliveries: Sequence[Delivery]) -> None:
        self.accepted += [d.body for d in deliveries]

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        self.returned += [d.body for d in deliveries]

    def served(self) -> Served:
        return Served("sqs", () if self.closed else (self.name,), 1, 0)

    def close(self) -> None:
        self.closed = True


class Folder:
    """A watched folder of credential files, and the sources that were made of them."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self.root = root
        self.clock = clock
        self.made: list[Pile] = []
        self.source = WatchedSource(
            "watched", "sqs", lambda: files_below(root, ".json"), self.make, clock
        )

    def make(self, path: str) -> Pile:
        pile = Pile(Path(path).name, Path(path).read_text())
        self.made.append(pile)
        return pile

    def write(self, name: str, text: str = "") -> None:
        (self.root / name).parent.mkdir(exist_ok=True)
        (self.root / name).write_text(text)

    def look(self, most: int = 100) -> list[Delivery]:
        self.clock.forward(PERIOD)
        return self.source.take(most)

    def names(self) -> list[str]:
        return [queue.removeprefix("pile ") for queue in self.source.served().queues]


@pytest.fixture
def folder(tmp_path: Path, clock: Clock) -> Folder:
    (tmp_path / "certs").mkdir()
    return Folder(tmp_path / "certs", clock)


def test_what_is_added_starts_what_is_removed_stops_what_is_changed_starts_anew(
    folder: Folder,
) -> None:
    assert folder.look() == []
    folder.write("a.json", "1")
    folder.write("deep/b.json", "1")
    folder.write(".hidden/c.json", "1")
    folder.write("d.txt", "1")
    assert {d.body for d in folder.look()} >= {b"a.json 0", b"b.json 0"}
    assert folder.names() == ["a.json 1", "b.json 1"]
    (folder.root / "a.json").unlink()
    folder.write("deep/b.json", "22")
    folder.look()
    assert folder.names() == ["b.json 22"]
    first, second, third = folder.made
    assert (first.closed, second.closed, third.closed) == (True, True, False)
    assert folder.source.served().listed == 3, "counted over all that ever were"


def test_nothing_is_looked_at_more_often_than_every_some_seconds(folder: Folder) -> None:
    folder.source.take(1)
    folder.write("a.json")
    folder.clock.forward(PERIOD - 0.1)
    assert folder.source.take(1) == []
    folder.clock.forward(0.2)
    assert len(folder.source.take(1)) == 1


def test_a_bad_one_is_named_once_and_costs_only_itself(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write("a.json", "1")
    folder.write("b.json", "bad")
    folder.write("c.json", "1")
    for _ in range(10):
        folder.look()
    assert folder.names() == ["a.json 1", "c.json 1"]
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "b.json: bad" in warnings[0]
    folder.write("b.json", "good")
    folder.look()
    assert folder.names() == ["a.json 1", "b.json good", "c.json 1"]


def test_a_mended_mode_is_noticed(folder: Folder) -> None:
    folder.write("a.json", "1")
    folder.look()
    (folder.root / "a.json").chmod(0o600)
    folder.look()
    assert len(folder.made) == 2


def test_a_folder_that_is_away_for_a_moment_stops_nothing(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write("a.json", "1")
    folder.look()
    folder.root.rename(folder.root.parent / "moved")
    for _ in range(5):
        folder.look()
    assert folder.names() == ["a.json 1"]
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1
    (folder.root.parent / "moved").rename(folder.root)
    folder.look()
    assert len(folder.made) == 1


def test_each_delivery_is_settled_with_the_source_it_came_from(folder: Folder) -> None:
    folder.write("a.json", "1")
    folder.write("b.json", "1")
    taken = folder.look()
    assert {d.server for d in taken} == {"pile a.json 1", "pile b.json 1"}
    folder.source.accept([d for d in taken if d.body.endswith(b" 0")])
    folder.source.give_back([d for d in taken if d.body.endswith(b" 1")])
    a, b = folder.made
    assert (a.accepted, a.returned) == ([b"a.json 0"], [b"a.json 1"])
    assert (b.accepted, b.returned) == ([b"b.json 0"], [b"b.json 1"])
    folder.source.close()
    assert a.closed
    assert b.closed


def test_a_full_one_does_not_starve_the_other(folder: Folder) -> None:
    folder.write("a.json", "1")
    folder.write("b.json", "1")
    taken = folder.look(1) + folder.source.take(1)
    assert {d.server for d in taken} == {"pile a.json 1", "pile b.json 1"}


def test_a_sub_folder_that_cannot_be_read_costs_only_itself(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("a.json", "1")
    folder.write("shut/b.json", "1")
    # Root, who may run this, can read everything.
    monkeypatch.setattr("os.access", lambda path, _: Path(path).name != "shut")
    folder.look()
    assert folder.names() == ["a.json 1"]


def test_sub_folders_are_looked_at_through_links_as_kubernetes_makes_them(tmp_path: Path) -> None:
    data = write(tmp_path / "..data", config=CONFIG, credentials=KEYS)
    (tmp_path / "team").symlink_to(data)
    before = folders_in(tmp_path)
    assert list(before) == [str(tmp_path / "team")]
    (data / "config").write_text("region=eu-west-1")
    assert folders_in(tmp_path) != before


# From the options to the queues.


def test_sqs_credentials_of_the_options_serve_their_queues(
    tmp_path: Path, sqs_url: str, monkeypatch: pytest.MonkeyPatch, coming: Callable[..., Any]
) -> None:
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", sqs_url)
    client = boto3.client(
        "sqs", region_name="us-west-2", aws_access_key_id="a", aws_secret_access_key="b"
    )
    url = client.create_queue(QueueName="sqs_of_options")["QueueUrl"]
    client.send_message(QueueUrl=url, MessageBody="x")
    write(tmp_path / "team", config=CONFIG, credentials=KEYS)
    write(tmp_path / "bad", config=CONFIG)
    options = QueueOptions(gateway_id="g", sqs_certs="$CERTS", queue_match="^sqs_of_options$")
    (source,) = sources_from(options, {"CERTS": str(tmp_path)})
    (delivery,) = coming(source, 1)
    assert (delivery.body, delivery.server) == (b"x", "sqs us-west-2 (aws_team)")
    source.accept([delivery])
    source.close()
    client.delete_queue(QueueUrl=url)


def test_one_source_for_each_way_to_a_server(tmp_path: Path) -> None:
    account = write(tmp_path, **{"a.json": json.dumps({"project_id": "p"})}) / "a.json"
    options = QueueOptions(
        gateway_id="g",
        sqs_certs=str(tmp_path),
        aws_region="eu-west-1",
        google_certs=str(tmp_path),
        google_application_credentials=str(account),
    )
    sources = sources_from(options, {EMULATOR: "127.0.0.1:1"})
    assert [source.name for source in sources] == [
        f"sqs by {tmp_path}",
        "sqs eu-west-1 (default credentials)",
        f"pubsub by {tmp_path}",
        f"pubsub by {account}",
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"sqs_timeout": 0.0},
        {"pubsub_timeout": 0.0},
        {"sqs_timeout": 1e9},
        {"pubsub_timeout": float("nan")},
        {"sqs_certs": "$NOWHERE_TO_BE_FOUND"},
    ],
)
def test_options_that_cannot_work_are_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(OptionInvalid):
        sources_from(QueueOptions(gateway_id="g", **options), {})
