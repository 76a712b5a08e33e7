"""The private keys of a gateway: their layout, their passphrases, and who may read them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import client_seal as client
import pytest
from cryptography.hazmat.primitives import serialization

from hpcrunner.keys.folder import NoKey
from hpcrunner.keys.keyring import NO_KEYS, keyring_from
from hpcrunner.keys.make import make_request_key
from hpcrunner.keys.options import KeyOptions
from hpcrunner.keys.requestkeys import RequestKeys
from hpcrunner.keys.show import shown_keys
from hpcrunner.queues.errors import OptionInvalid
from hpcrunner.request.errors import KeyInvalid
from hpcrunner.request.rsakey import load_private_rsa, load_public_rsa
from hpcrunner.request.seal import seal, unseal
from hpcrunner.request.signature import fingerprint

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def private(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    return path


def encrypted(which: int, passphrase: bytes) -> bytes:
    return client.rsa_key(which).private_bytes(
        client.PEM, client.PKCS1, serialization.BestAvailableEncryption(passphrase)
    )


def plain(which: int) -> bytes:
    return client.private_pem(client.rsa_key(which))


def read(folder: Path, clock: Any = None, environ: Mapping[str, str] | None = None) -> RequestKeys:
    keys = RequestKeys(folder, environ=environ or {}, **({"clock": clock} if clock else {}))
    keys.refresh()
    return keys


def opened_by(keys: RequestKeys) -> list[int]:
    """Which of the tests' keys are there."""
    known = {client.rsa_key(which).private_numbers(): which for which in (0, 1, 2)}
    return [known[key.private_numbers()] for key in keys.usable()]


def test_the_layout_of_studioml_s_runner_is_read(tmp_path: Path) -> None:
    private(tmp_path / "encryption" / "ssh-privatekey", encrypted(0, b"open sesame"))
    public = client.public_pem(client.rsa_key().public_key())
    private(tmp_path / "encryption" / "ssh-publickey", public, 0o644)
    private(tmp_path / "encryption" / "ssh-privatekey.pub", public, 0o644)
    private(tmp_path / "passphrase" / "ssh-passphrase", b"open sesame")
    assert opened_by(read(tmp_path)) == [0]


def test_the_files_may_lie_in_the_folder_itself_as_credentials_do(tmp_path: Path) -> None:
    private(tmp_path / "ssh-privatekey", encrypted(0, b"open sesame"))
    private(tmp_path / "ssh-passphrase", b"open sesame\n")
    assert opened_by(read(tmp_path)) == [0]


def test_several_keys_are_used_each_with_its_passphrase(tmp_path: Path) -> None:
    private(tmp_path / "encryption" / "ssh-privatekey", encrypted(0, b"shared"))
    private(tmp_path / "encryption" / "ssh-privatekey-2026", encrypted(1, b"shared"))
    private(tmp_path / "encryption" / "ssh-privatekey-2027", encrypted(2, b"its own"))
    private(tmp_path / "passphrase" / "ssh-passphrase", b"shared")
    private(tmp_path / "passphrase" / "ssh-passphrase-2027", b"its own")
    assert opened_by(read(tmp_path)) == [0, 1, 2]


def test_a_key_is_added_and_the_old_one_taken_away_while_it_is_used(
    tmp_path: Path, clock: Any
) -> None:
    old = private(tmp_path / "encryption" / "ssh-privatekey", plain(0))
    keys = read(tmp_path, clock)
    private(tmp_path / "encryption" / "ssh-privatekey-2027", plain(1))
    keys.refresh()
    assert opened_by(keys) == [0]  # not looked at again so soon
    clock.later()
    keys.refresh()
    assert opened_by(keys) == [0, 1]
    old.unlink()
    clock.later()
    keys.refresh()
    assert opened_by(keys) == [1]


def test_a_passphrase_that_comes_later_opens_its_key(tmp_path: Path, clock: Any) -> None:
    private(tmp_path / "ssh-privatekey", encrypted(0, b"open sesame"))
    keys = read(tmp_path, clock)
    with pytest.raises(NoKey, match="passphrase"):
        keys.usable()
    private(tmp_path / "ssh-passphrase", b"open sesame")
    clock.later()
    keys.refresh()
    assert opened_by(keys) == [0]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644])
@pytest.mark.parametrize("name", ["ssh-privatekey", "ssh-passphrase"])
def test_a_secret_that_others_can_use_is_refused_by_name_once(
    tmp_path: Path, clock: Any, caplog: pytest.LogCaptureFixture, mode: int, name: str
) -> None:
    private(tmp_path / "ssh-privatekey", encrypted(0, b"open sesame"))
    private(tmp_path / "ssh-passphrase", b"open sesame")
    (tmp_path / name).chmod(mode)
    keys = read(tmp_path, clock)
    for _ in range(3):
        clock.later()
        keys.refresh()
    with pytest.raises(NoKey, match=f"{name}.*{mode:04o}"):
        keys.usable()
    assert caplog.text.count("others may use it") == 1
    (tmp_path / name).chmod(0o600)
    clock.later()
    keys.refresh()
    assert opened_by(keys) == [0]


@needs_root
def test_a_key_of_another_user_is_refused(tmp_path: Path) -> None:
    path = private(tmp_path / "ssh-privatekey", plain(0))
    os.chown(path, 12345, -1)
    with pytest.raises(NoKey, match="another user"):
        read(tmp_path).usable()


@needs_root
def test_a_credential_of_systemd_may_show_the_group_s_right_to_read(tmp_path: Path) -> None:
    private(tmp_path / "ssh-privatekey", plain(0), 0o440)
    with pytest.raises(NoKey, match="0440"):
        read(tmp_path).usable()
    assert opened_by(read(tmp_path, environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})) == [0]
    (tmp_path / "ssh-privatekey").chmod(0o444)
    with pytest.raises(NoKey, match="0444"):
        read(tmp_path, environ={"CREDENTIALS_DIRECTORY": str(tmp_path)}).usable()


def test_a_broken_key_does_not_stand_in_the_way_of_a_sound_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    private(tmp_path / "ssh-privatekey", b"nonsense")
    private(tmp_path / "ssh-privatekey-2027", plain(1))
    assert opened_by(read(tmp_path)) == [1]
    assert "not a private RSA key" in caplog.text
    assert "nonsense" not in caplog.text


def test_a_folder_without_a_key_is_said_once_and_looked_at_again(
    tmp_path: Path, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    keys = RequestKeys(tmp_path / "later", clock=clock)
    for _ in range(3):
        keys.refresh()
        clock.later()
    assert caplog.text.count("no ssh-privatekey in it yet") == 1
    with pytest.raises(NoKey, match="no key to open requests with"):
        keys.usable()
    private(tmp_path / "later" / "encryption" / "ssh-privatekey", plain(0))
    keys.refresh()
    assert opened_by(keys) == [0]


def test_no_options_are_no_keys_and_half_of_them_an_error(tmp_path: Path) -> None:
    assert keyring_from(KeyOptions()) is NO_KEYS
    with pytest.raises(OptionInvalid, match="--encrypt-dir"):
        keyring_from(KeyOptions(request_signatures_dir=str(tmp_path)))
    with pytest.raises(OptionInvalid, match="--request-signatures-dir"):
        keyring_from(KeyOptions(encrypt_dir=str(tmp_path)))
    with pytest.raises(OptionInvalid, match="CREDENTIALS_DIRECTORY"):
        keyring_from(KeyOptions(response_signatures_dir="$CREDENTIALS_DIRECTORY"), {})


def test_folders_may_be_named_by_a_variable(tmp_path: Path) -> None:
    encrypt, _ = client.write_keys(tmp_path, {"ssh-privatekey": plain(0)}, {})
    environ = {"CREDENTIALS_DIRECTORY": str(encrypt), "KEYS": str(tmp_path)}
    options = KeyOptions(
        encrypt_dir="$CREDENTIALS_DIRECTORY", request_signatures_dir="${KEYS}/signing"
    )
    keyring = keyring_from(options, environ)
    assert keyring.requests is not None
    assert opened_by(keyring.requests) == [0]


def test_clear_text_is_taken_by_default_where_no_keys_for_requests_are() -> None:
    assert KeyOptions().takes_clear_text
    assert KeyOptions(response_signatures_dir="x").takes_clear_text
    assert not KeyOptions(encrypt_dir="x", request_signatures_dir="y").takes_clear_text
    assert KeyOptions(encrypt_dir="x", request_signatures_dir="y", clear_text=True).takes_clear_text
    assert not KeyOptions(clear_text=False).takes_clear_text


def test_a_key_that_is_made_is_read_and_is_nobody_else_s(tmp_path: Path) -> None:
    made, public = make_request_key(tmp_path / "message")
    assert made.stat().st_mode & 0o777 == 0o600
    assert made.parent.stat().st_mode & 0o777 == 0o700
    (key,) = read(tmp_path / "message").usable()
    assert key.key_size == 4096
    assert unseal(seal(b"x", load_public_rsa(public.read_bytes())), [key]) == b"x"
    before = made.read_bytes()
    with pytest.raises(KeyInvalid, match="already"):
        make_request_key(tmp_path / "message")
    assert made.read_bytes() == before
    assert load_private_rsa(before).key_size == 4096
    for name in ("../x", "a b", "x" * 65, "a/b"):
        with pytest.raises(KeyInvalid, match="no name"):
            make_request_key(tmp_path / "message", name)


def test_what_is_shown_tells_every_file_and_no_secret(tmp_path: Path) -> None:
    signer = client.public_line(client.signing_key())
    encrypt, signing = client.write_keys(
        tmp_path,
        {"ssh-privatekey": plain(0), "ssh-privatekey-old": b"nonsense"},
        {"rmq_": signer, "sqs_": b"nonsense"},
    )
    (tmp_path / "reports").mkdir()
    public = client.rsa_key().public_key()
    (tmp_path / "reports" / "rmq_a_response").write_bytes(client.public_pem(public))
    options = KeyOptions(
        encrypt_dir=str(encrypt),
        request_signatures_dir=str(signing),
        response_signatures_dir=str(tmp_path / "reports"),
    )
    rows = shown_keys(keyring_from(options))
    assert [(row["use"], row["file"], row["kind"]) for row in rows] == [
        ("requests", "ssh-privatekey", "RSA 2048"),
        ("requests", "ssh-privatekey-old", ""),
        ("senders", "rmq_", "ED25519"),
        ("senders", "sqs_", ""),
        ("reports", "rmq_a_response", "RSA 2048"),
    ]
    assert rows[0]["fingerprint"] == fingerprint(public)
    assert rows[2]["fingerprint"] == client.fingerprint_of(client.signing_key())
    assert all(row["trouble"] for row in rows if not row["kind"])
    assert "nonsense" not in str(rows)
