"""``hpcrunner keys`` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import client_seal as client
import pytest
from typer.testing import CliRunner

from hpcrunner.cli.main import app
from hpcrunner.request.errors import KeyInvalid
from hpcrunner.request.rsakey import load_public_rsa
from hpcrunner.request.signature import fingerprint


def run(*words: str) -> str:
    done = CliRunner().invoke(app, ["keys", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_key_is_made_named_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpcrunner.keys.make.BITS", 2048)  # quick to make
    encrypt, signing = tmp_path / "message", tmp_path / "signing"
    signing.mkdir()
    (signing / "rmq_mine").write_bytes(client.public_line(client.signing_key()))
    public = Path(run("make", str(encrypt)).strip())
    assert public == encrypt / "encryption" / "ssh-publickey"
    run("make", str(encrypt), "--name", "2027")
    with pytest.raises(KeyInvalid, match="give the new key a --name"):
        run("make", str(encrypt))
    folders = ("--encrypt-dir", str(encrypt), "--request-signatures-dir", str(signing))
    lines = [line.split() for line in run("show", *folders).splitlines()]
    assert [line[:2] for line in lines] == [
        ["requests", "ssh-privatekey"],
        ["requests", "ssh-privatekey-2027"],
        ["senders", "rmq_mine"],
    ]
    assert lines[0][-1] == fingerprint(load_public_rsa(public.read_bytes()))
    assert lines[2][-1] == client.fingerprint_of(client.signing_key())
    shown = json.loads(run("show", *folders, "--json"))
    assert [key["fingerprint"] for key in shown] == [line[-1] for line in lines]


def test_a_key_that_cannot_be_used_is_shown_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "rmq_a_response").write_text("nonsense")
    said = run("show", "--response-signatures-dir", str(tmp_path))
    assert said.startswith("reports   rmq_a_response")
    assert "not a public RSA key" in said
