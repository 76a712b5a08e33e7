"""Folders of public keys: the choice by prefix, and files that come, change and go."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import client_seal as client
import pytest

from hpcrunner.keys.folder import RESCAN, KeyFolder, NoKey
from hpcrunner.request.errors import KeyInvalid
from hpcrunner.request.rsakey import load_public_rsa
from hpcrunner.request.signature import fingerprint, load_signing_key

OPTION = "--request-signatures-dir"


def text_key(data: bytes) -> str:
    """A key that is the file's text, for tests of the folder alone."""
    if not data.startswith(b"key "):
        raise KeyInvalid("not a key")
    return data[4:].decode()


@pytest.fixture
def keys(tmp_path: Path, clock: Any) -> KeyFolder[str]:
    folder = tmp_path / "keys"
    folder.mkdir()
    return KeyFolder(folder, text_key, OPTION, clock=clock)


def write(tmp_path: Path, name: str, text: str | None = None) -> Path:
    path = tmp_path / "keys" / name
    path.write_text(f"key {name}" if text is None else text)
    return path


CASCADE = [
    "rmq_",
    "rmq_karl",
    "rmq_andrei",
    "rmq_k",
    "rmq_ka",
    "rmq_kar",
    "rmq_donn",
    "rmq_do",
]


def cascade(tmp_path: Path, keys: KeyFolder[str]) -> None:
    for name in CASCADE:
        write(tmp_path, name)
    keys.refresh()


def test_a_queue_s_own_name_is_found(tmp_path: Path, keys: KeyFolder[str]) -> None:
    cascade(tmp_path, keys)
    assert [name for name, _, _ in keys.listed()] == sorted(CASCADE)
    for name in CASCADE:
        assert keys.choose(name) == name


@pytest.mark.parametrize(
    ("queue", "chosen"),
    [
        ("rmq_z", "rmq_"),
        ("rmq_donn_", "rmq_donn"),
        ("rmq_andrei_andrei", "rmq_andrei"),
        ("rmq_karlx", "rmq_karl"),
        ("rmq_d", "rmq_"),
        ("rmq_dox", "rmq_do"),
        ("rmq_karl_response", "rmq_karl"),
    ],
)
def test_else_the_longest_name_that_the_queue_s_begins_with(
    tmp_path: Path, keys: KeyFolder[str], queue: str, chosen: str
) -> None:
    cascade(tmp_path, keys)
    assert queue not in CASCADE
    assert keys.choose(queue) == chosen


@pytest.mark.parametrize("queue", ["r", "", "sqs_x", "xrmq_", "RMQ_karl"])
def test_else_there_is_none(tmp_path: Path, keys: KeyFolder[str], queue: str) -> None:
    cascade(tmp_path, keys)
    with pytest.raises(NoKey, match=OPTION):
        keys.choose(queue)


def test_real_keys_of_both_kinds_are_chosen(tmp_path: Path) -> None:
    for which in (0, 1):
        (tmp_path / f"rmq_{which}").write_bytes(client.public_line(client.signing_key(which)))
    signers = KeyFolder(tmp_path, load_signing_key, OPTION)
    signers.refresh()
    for which in (0, 1):
        chosen = signers.choose(f"rmq_{which}_x")
        assert fingerprint(chosen) == client.fingerprint_of(client.signing_key(which))
    (tmp_path / "rmq_0_response").write_bytes(client.public_pem(client.rsa_key().public_key()))
    reports = KeyFolder(tmp_path, load_public_rsa, "--response-signatures-dir")
    reports.refresh()
    assert reports.choose("rmq_0_response").key_size == 2048
    with pytest.raises(NoKey):
        reports.choose("rmq_1_response")  # its file holds no RSA key


def test_files_are_added_changed_and_removed_while_it_is_used(
    tmp_path: Path, keys: KeyFolder[str], clock: Any
) -> None:
    keys.refresh()
    with pytest.raises(NoKey):
        keys.choose("rmq_a")
    path = write(tmp_path, "rmq_a")
    clock.later()
    keys.refresh()
    assert keys.choose("rmq_a") == "rmq_a"
    path.write_text("key another")
    clock.later()
    keys.refresh()
    assert keys.choose("rmq_a") == "another"
    path.unlink()
    clock.later()
    keys.refresh()
    with pytest.raises(NoKey):
        keys.choose("rmq_a")


def test_a_file_put_in_the_place_of_another_is_read_though_time_and_size_are_the_same(
    tmp_path: Path, keys: KeyFolder[str], clock: Any
) -> None:
    path = write(tmp_path, "rmq_a", "key one")
    os.utime(path, ns=(10**18, 10**18))
    keys.refresh()
    new = write(tmp_path, ".new", "key two")
    os.utime(new, ns=(10**18, 10**18))
    new.rename(path)
    clock.later()
    keys.refresh()
    assert keys.choose("rmq_a") == "two"


def test_the_folder_is_looked_at_every_ten_seconds_at_most(
    tmp_path: Path, keys: KeyFolder[str], clock: Any
) -> None:
    keys.refresh()
    write(tmp_path, "rmq_a")
    clock.now += RESCAN - 0.1
    keys.refresh()
    with pytest.raises(NoKey):
        keys.choose("rmq_a")
    clock.now += 0.2
    keys.refresh()
    assert keys.choose("rmq_a") == "rmq_a"


def test_a_file_that_did_not_change_is_not_read_again(
    tmp_path: Path, keys: KeyFolder[str], clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "rmq_a")
    with caplog.at_level("INFO"):
        for _ in range(3):
            keys.refresh()
            clock.later()
    assert caplog.text.count("rmq_a is read") == 1


def test_dot_files_folders_and_info_are_left_out_without_a_word(
    tmp_path: Path, keys: KeyFolder[str], caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, ".rmq_a", "nonsense")
    (tmp_path / "keys" / "rmq_b").mkdir()
    (tmp_path / "keys" / "..data").mkdir()  # as Kubernetes mounts secrets
    write(tmp_path, "info", "a placeholder")
    keys.refresh()
    assert keys.listed() == []
    assert not caplog.records
    with pytest.raises(NoKey, match="no key for the queue"):
        keys.choose("info_x")


def test_a_file_info_that_holds_a_key_is_a_key(tmp_path: Path, keys: KeyFolder[str]) -> None:
    write(tmp_path, "info")
    keys.refresh()
    assert keys.choose("info") == "info"


def test_links_are_followed(tmp_path: Path, keys: KeyFolder[str]) -> None:
    (tmp_path / "elsewhere").write_text("key far")
    (tmp_path / "keys" / "rmq_a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "keys" / "rmq_b").symlink_to(tmp_path / "nowhere")
    (tmp_path / "keys" / "rmq_c").symlink_to("rmq_c")
    keys.refresh()
    assert keys.choose("rmq_a") == "far"
    with pytest.raises(NoKey, match="no key for"):
        keys.choose("rmq_b")
    with pytest.raises(NoKey, match="cannot be used"):
        keys.choose("rmq_c")


def test_a_broken_file_is_named_once_and_no_shorter_name_takes_its_place(
    tmp_path: Path, keys: KeyFolder[str], clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "rmq_")
    broken = write(tmp_path, "rmq_a", "nonsense")
    for _ in range(3):
        keys.refresh()
        clock.later()
    assert caplog.text.count(str(broken)) == 1
    assert "nonsense" not in caplog.text
    with pytest.raises(NoKey, match="cannot be used: not a key"):
        keys.choose("rmq_a_x")
    assert keys.choose("rmq_b") == "rmq_"
    broken.write_text("key mended")
    keys.refresh()
    assert keys.choose("rmq_a_x") == "mended"


@pytest.mark.parametrize("spoil", ["pipe", "large", "open", "binary"])
def test_a_file_that_must_not_be_trusted_is_no_key(
    tmp_path: Path, keys: KeyFolder[str], spoil: str
) -> None:
    path = write(tmp_path, "rmq_a")
    if spoil == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif spoil == "large":
        path.write_text("key " + "x" * 100_000)
    elif spoil == "open":
        path.chmod(0o646)
    else:
        path.write_bytes(b"\xff\x00")
    keys.refresh()
    with pytest.raises(NoKey):
        keys.choose("rmq_a")


def test_a_file_whose_mode_is_mended_is_a_key_at_the_next_look(
    tmp_path: Path, keys: KeyFolder[str], clock: Any
) -> None:
    path = write(tmp_path, "rmq_a")
    path.chmod(0o666)
    keys.refresh()
    path.chmod(0o644)
    clock.later()
    keys.refresh()
    assert keys.choose("rmq_a") == "rmq_a"


def test_a_folder_that_everybody_can_write_is_not_trusted(
    tmp_path: Path, keys: KeyFolder[str], clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "rmq_a")
    (tmp_path / "keys").chmod(0o777)
    keys.refresh()
    assert "everybody can write it" in caplog.text
    with pytest.raises(NoKey):
        keys.choose("rmq_a")
    (tmp_path / "keys").chmod(0o755)
    clock.later()
    keys.refresh()
    assert keys.choose("rmq_a") == "rmq_a"


def test_a_folder_may_appear_later_and_vanish(
    tmp_path: Path, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "keys"
    keys = KeyFolder(folder, text_key, OPTION, clock=clock)
    for _ in range(3):
        keys.refresh()
        clock.later()
    assert caplog.text.count("No such file") == 1
    folder.mkdir()
    write(tmp_path, "rmq_a")
    keys.refresh()
    assert keys.choose("rmq_a") == "rmq_a"
    folder.rename(tmp_path / "away")
    clock.later()
    keys.refresh()
    with pytest.raises(NoKey):
        keys.choose("rmq_a")


def test_keys_stay_known_while_their_file_system_is_in_trouble(
    tmp_path: Path, keys: KeyFolder[str], clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(_: object) -> list[str]:
        raise OSError(116, "Stale file handle")

    write(tmp_path, "rmq_a")
    keys.refresh()
    clock.later()
    monkeypatch.setattr("hpcrunner.keys.folder.os.listdir", stale)
    keys.refresh()
    assert keys.choose("rmq_a") == "rmq_a"
