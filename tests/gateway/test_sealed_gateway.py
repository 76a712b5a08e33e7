"""A whole gateway with keys, as its operator starts it: what it runs, and what it sets aside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import client_seal as client

from hpcrunner.client.build import Work
from hpcrunner.client.publish import publish, store_work

SIGNER = client.signing_key()


def work(login: Any, name: str) -> bytes:
    """A request of a payload that ends at once, with a secret in its environment."""
    environment = {"LEDGER": str(login.ledger), "COLOUR": "hush-hush"}
    made = Work("run.py", args=(name, "0"), environment=environment)
    _, body = store_work(made, login.folder / "code", login.folder / "store")
    return body


def sealed(body: bytes, which: int) -> bytes:
    return json.dumps(client.envelope(body, client.rsa_key(which).public_key(), SIGNER)).encode()


def test_sealed_work_runs_and_clear_text_is_set_aside_until_somebody_retries(
    login: Any, until: Callable[..., Any]
) -> None:
    keys = login.folder / "keys"
    encrypt, _ = client.write_keys(
        keys,
        {"ssh-privatekey": client.private_pem(client.rsa_key(0))},
        {"local_": client.public_line(SIGNER)},
    )
    where = {
        "KEYS": str(keys),
        "ENCRYPT_DIR": "$KEYS/message",
        "REQUEST_SIGNATURES_DIR": "$KEYS/signing",
    }
    clear, early = work(login, "clear"), sealed(work(login, "early"), 1)
    for body in (clear, early, sealed(work(login, "sealed"), 0)):
        publish(login.queue, body)
    gateway = login.gateway("--limit-tasks", "3", env=where)
    assert gateway.wait(120) == 0, login.log()
    assert login.runs() == {"sealed": 1}, login.log()
    assert login.states() == {"SUCCEEDED": 1, "REJECTED": 2}
    assert "clear text is not taken" in login.log()
    assert "sealed for another key" in login.log()
    assert "hush-hush" not in login.log()

    def hpcrunner(*words: str) -> str:
        done = subprocess.run(
            [str(Path(sys.executable).with_name("hpcrunner")), *words],
            env={"PATH": os.environ["PATH"], "HOME": str(keys), "SITE": str(login.site), **where},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    new = encrypt / "encryption" / "ssh-privatekey-new"
    new.touch(0o600)
    new.write_bytes(client.private_pem(client.rsa_key(1)))
    assert "ssh-privatekey-new" in hpcrunner("keys", "show")
    (keys / "early.json").write_bytes(early)
    assert "early" in hpcrunner("render", str(keys / "early.json"))
    told = hpcrunner("dead", "retry", "--all")
    assert "runs again as" in told
    assert "clear text is not taken" in told
    until(lambda: login.states()["SUCCEEDED"] == 2, login.log)
    assert login.runs() == {"sealed": 1, "early": 1}
    assert len(json.loads(hpcrunner("dead", "list", "--json"))) == 1
    # A message may be looked at without asking for its sender, but not without a key.
    del where["ENCRYPT_DIR"]
    program = Path(sys.executable).with_name("hpcrunner")
    refused = subprocess.run(
        [str(program), "render", str(keys / "early.json"), "--site", str(login.site)],
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 65
    assert "sealed" in refused.stderr
